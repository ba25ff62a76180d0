//! The command's life: what it sees, how it ends, and that nothing is left.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::proc;

use crate::support::{self, World, ok, output, stderr, stdout};

fn world() -> Result<(World, PathBuf)> {
    let world = World::new(&["api.test"])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    Ok((world, manifest))
}

/// Starts a command whose first line says that it runs, and returns that line.
fn start(mut command: Command) -> Result<(Child, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start postern")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    Ok((child, line.trim().to_owned()))
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
}

fn run_dir(pid: u32) -> PathBuf {
    PathBuf::from(format!("/run/postern/run-{pid}"))
}

/// The cgroup that a command printed from `/proc/self/cgroup`, as a directory.
fn cgroup_dir(line: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .context("no cgroup2 mount")?;
    let path = line.strip_prefix("0::/").context("no unified cgroup")?;
    Ok(Path::new(mount).join(path))
}

fn gone(path: &Path) -> bool {
    (0..500).any(|_| {
        thread::sleep(Duration::from_millis(10));
        !path.exists()
    })
}

#[test]
fn exit_codes_come_through() -> Result<()> {
    let (world, manifest) = world()?;
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["/no/such/command"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let status = output(world.run(&manifest, command))?.status;
        ensure!(status.code() == Some(code), "{command:?}: {status}");
    }
    Ok(())
}

#[test]
fn arguments_input_and_output_are_the_commands_own() -> Result<()> {
    let (world, manifest) = world()?;
    let mut run = world.run(
        &manifest,
        &[
            "sh",
            "-c",
            "cat; printf '<%s>' \"$@\"",
            "sh",
            "a b",
            "--mode",
            "-f",
        ],
    );
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no pipe")?, b"input ")?;
    let output = child.wait_with_output()?;
    ensure!(
        stdout(&output) == "input <a b><--mode><-f>",
        "{}",
        stdout(&output)
    );
    Ok(())
}

#[test]
fn signals_reach_the_command() -> Result<()> {
    let (world, manifest) = world()?;
    for (name, number) in [
        ("TERM", Signal::SIGTERM),
        ("INT", Signal::SIGINT),
        ("HUP", Signal::SIGHUP),
        ("USR1", Signal::SIGUSR1),
    ] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let (mut child, line) = start(world.run(&manifest, &["sh", "-c", &script]))?;
        ensure!(line == "ready", "{line}");
        signal(&child, number)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(9), "{name}: {status}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_the_end_or_sigterm() -> Result<()> {
    let (world, manifest) = world()?;
    for stop in [false, true] {
        // The second process outlives the first, and is not allowed to stay.
        let script = "(trap '' TERM; exec sleep 1000) & grep ^0:: /proc/self/cgroup; \
                      [ $0 = 1 ] && exec sleep 1000; exit 0";
        let flag = if stop { "1" } else { "0" };
        let (mut child, line) = start(world.run(&manifest, &["sh", "-c", script, flag]))?;
        let pid = child.id();
        let cgroup = cgroup_dir(&line)?;
        if stop {
            ensure!(cgroup.exists() && run_dir(pid).exists(), "{line}");
            signal(&child, Signal::SIGTERM)?;
        }
        let status = child.wait()?;
        ensure!(
            status.code() == Some(if stop { 143 } else { 0 }),
            "{status}"
        );
        ensure!(!cgroup.exists(), "{} is left", cgroup.display());
        ensure!(!run_dir(pid).exists(), "{} is left", run_dir(pid).display());
    }
    Ok(())
}

#[test]
fn the_next_run_cleans_up_after_a_killed_one() -> Result<()> {
    let (world, manifest) = world()?;
    let script = "(exec sleep 1000) & grep ^0:: /proc/self/cgroup; exec sleep 1000";
    let (mut child, line) = start(world.run(&manifest, &["sh", "-c", script]))?;
    let pid = child.id();
    let cgroup = cgroup_dir(&line)?;
    let family = proc::descendants(pid)?;
    ensure!(family.len() >= 2, "{family:?}");
    child.kill()?;
    child.wait()?;
    ensure!(
        run_dir(pid).exists() && cgroup.exists(),
        "nothing to clean up"
    );
    ok(world.run(&manifest, &["true"]))?;
    ensure!(gone(&run_dir(pid)), "{} is left", run_dir(pid).display());
    ensure!(gone(&cgroup), "{} is left", cgroup.display());
    ensure!(
        family.iter().all(|pid| !proc::is_alive(*pid)),
        "processes are left"
    );
    Ok(())
}

#[test]
fn runs_beside_each_other_do_not_disturb() -> Result<()> {
    let (world, manifest) = world()?;
    let (mut first, line) =
        start(world.run(&manifest, &["sh", "-c", "echo ready; exec sleep 1000"]))?;
    ensure!(line == "ready");
    ok(world.run(&manifest, &["true"]))?;
    ensure!(
        run_dir(first.id()).exists() && first.try_wait()?.is_none(),
        "the first run is gone"
    );
    signal(&first, Signal::SIGTERM)?;
    first.wait()?;
    Ok(())
}

#[test]
fn trust_is_added_to_what_was_trusted_and_only_for_the_command() -> Result<()> {
    let (world, manifest) = world()?;
    let own = world.files.write("own.pem", world.pki.ca_pem()?)?;
    let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")?;
    let script = "cat /etc/ssl/certs/ca-certificates.crt; echo '####'; cat \"$CURL_CA_BUNDLE\"; echo '####'; \
                  echo $SSL_CERT_FILE $GIT_SSL_CAINFO $NODE_EXTRA_CA_CERTS";
    let mut run = world.run(&manifest, &["sh", "-c", script]);
    for name in [
        "SSL_CERT_FILE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
    ] {
        run.env_remove(name);
    }
    run.env("CURL_CA_BUNDLE", &own);
    let text = stdout(&ok(run)?);
    let parts: Vec<_> = text.split("####\n").collect();
    let count = |text: &str| text.matches("BEGIN CERTIFICATE").count();
    ensure!(
        count(parts[0]) == count(&system) + 1,
        "the system's bundle has one more"
    );
    ensure!(
        count(parts[1]) == 2 && parts[1].starts_with(&world.pki.ca_pem()?),
        "{}",
        parts[1]
    );
    let values: Vec<_> = parts[2].split_whitespace().collect();
    ensure!(
        values[..2] == ["/etc/ssl/certs/ca-certificates.crt"; 2],
        "{values:?}"
    );
    ensure!(values[2].ends_with("postern-ca.pem"), "{values:?}");
    ensure!(fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")? == system);
    ensure!(count(&fs::read_to_string(&own)?) == 1);
    Ok(())
}

#[test]
fn a_name_is_redirected_as_soon_as_it_resolves() -> Result<()> {
    let world = World::new(&[])?;
    let manifest = world.manifest(&support::bearer("api", "https://nowhere.test"))?;
    let output = ok(world.run(&manifest, &["true"]))?;
    ensure!(
        stderr(&output).contains("nowhere.test") && stderr(&output).contains("default/api"),
        "{}",
        stderr(&output)
    );
    Ok(())
}

#[test]
fn signals_that_were_ignored_stay_ignored() -> Result<()> {
    let (world, manifest) = world()?;
    let mut run = world.sandbox.command("nohup");
    run.arg(env!("CARGO_BIN_EXE_postern"))
        .args(["run", "-f"])
        .arg(&manifest)
        .args(["--", "sh", "-c", "echo ready; sleep 0.5; exit 7"]);
    let (mut child, line) = start(run)?;
    ensure!(line == "ready", "{line}");
    signal(&child, Signal::SIGHUP)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(7), "{status}");
    Ok(())
}

#[test]
fn many_runs_may_start_at_once() -> Result<()> {
    let (world, manifest) = world()?;
    let mut runs = Vec::new();
    for _ in 0..12 {
        runs.push(
            world
                .run(&manifest, &["true"])
                .stdin(Stdio::null())
                .spawn()?,
        );
    }
    for mut run in runs {
        let status = run.wait()?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}

#[test]
fn a_strict_umask_does_not_hide_the_bundle_from_other_users() -> Result<()> {
    let (world, manifest) = world()?;
    let script = "umask 077; exec \"$0\" \"$@\"";
    let mut run = world.sandbox.command("sh");
    run.args(["-c", script, env!("CARGO_BIN_EXE_postern"), "run", "-f"])
        .arg(&manifest)
        .args([
            "--",
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
        ])
        .arg("cat $NODE_EXTRA_CA_CERTS /etc/ssl/certs/ca-certificates.crt")
        .env_remove("NODE_EXTRA_CA_CERTS");
    let text = stdout(&ok(run)?);
    ensure!(text.contains("BEGIN CERTIFICATE"), "{text}");
    Ok(())
}

#[test]
fn a_network_namespace_with_a_sys_of_its_own_is_no_obstacle() -> Result<()> {
    let (world, _nginx, manifest) = support::api(testkit::SiteAuth::Bearer(support::TOKEN.into()))?;
    // What `ip netns exec` does.
    let script = "umount --lazy /sys && mount -t sysfs none /sys && exec \"$@\"";
    let mut run = world.sandbox.command("unshare");
    run.args([
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_postern"),
    ])
    .args(["run", "-f"])
    .arg(&manifest)
    .args(["--", "curl", "--silent", "--fail", "https://api.test/"]);
    ensure!(stdout(&ok(run)?) == "{}");
    Ok(())
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_nothing() -> Result<()> {
    let (world, manifest) = world()?;
    for milliseconds in (0..400).step_by(20) {
        let mut run = world.run(&manifest, &["sleep", "1000"]);
        let mut child = run.stdin(Stdio::null()).spawn()?;
        let pid = child.id();
        thread::sleep(Duration::from_millis(milliseconds));
        signal(&child, Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(!status.success(), "{milliseconds} ms: {status}");
        ensure!(
            !run_dir(pid).exists(),
            "{milliseconds} ms: {} is left",
            run_dir(pid).display()
        );
        let cgroup = cgroup_dir(&format!("0::/postern-run-{pid}"))?;
        ensure!(
            !cgroup.exists(),
            "{milliseconds} ms: {} is left",
            cgroup.display()
        );
    }
    Ok(())
}

#[test]
fn the_exit_code_survives_a_parent_that_ignores_its_children() -> Result<()> {
    let (world, manifest) = world()?;
    let mut run = world.sandbox.command("perl");
    run.args([
        "-e",
        "$SIG{CHLD} = 'IGNORE'; exec @ARGV",
        env!("CARGO_BIN_EXE_postern"),
    ])
    .args(["run", "-f"])
    .arg(&manifest)
    .args(["--", "sh", "-c", "exit 7"]);
    ensure!(output(run)?.status.code() == Some(7));
    Ok(())
}

#[test]
fn a_signal_that_no_terminal_sent_arrives_on_a_terminal_as_well() -> Result<()> {
    let (world, manifest) = world()?;
    // script(1) gives it a terminal, in whose foreground it is.
    let inner = format!(
        "{} run -f {} -- sh -c 'trap \"exit 9\" INT; kill -INT $PPID; while :; do sleep 0.05; done'",
        env!("CARGO_BIN_EXE_postern"),
        manifest.display()
    );
    let mut run = world.sandbox.command("script");
    run.args(["--quiet", "--return", "--command", &inner, "/dev/null"]);
    let status = output(run)?.status;
    ensure!(status.code() == Some(9), "{status}");
    Ok(())
}

#[test]
fn the_limit_of_open_files_is_the_commands_own() -> Result<()> {
    let (world, manifest) = world()?;
    let mut run = world.sandbox.command("sh");
    run.args([
        "-c",
        "ulimit -Sn 1024; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_postern"),
    ])
    .args(["run", "-f"])
    .arg(&manifest)
    .args([
        "--",
        "sh",
        "-c",
        "ulimit -Sn; grep -i 'open files' /proc/$PPID/limits",
    ]);
    let text = stdout(&ok(run)?);
    let mut words = text.split_whitespace();
    ensure!(words.next() == Some("1024"), "{text}");
    let soft = words.nth(3).context("no limit")?;
    ensure!(soft != "1024", "Postern itself has no more: {text}");
    Ok(())
}
