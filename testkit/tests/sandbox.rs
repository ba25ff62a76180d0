//! Sandboxes: what is inside, what is not, and that nothing is left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::command::stdout_of;
use testkit::{Sandbox, SandboxOptions, TempDir, proc};

#[test]
fn a_sandbox_is_a_network_of_its_own_and_nothing_else() -> Result<()> {
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse()?, "2001:db8::7".parse()?);
    let options = SandboxOptions::default()
        .host("four.test", v4)
        .host("six.test", v6);
    let sandbox = Sandbox::new(&options)?;
    let inside = |script: &str| {
        let mut sh = sandbox.command("sh");
        sh.args(["-c", script]);
        stdout_of(sh)
    };
    ensure!(inside("getent ahosts four.test")?.starts_with("192.0.2.7"));
    ensure!(inside("getent ahosts six.test")?.starts_with("2001:db8::7"));
    ensure!(inside("ip -oneline link")?.lines().count() == 1);
    ensure!(inside("pwd")? == std::env::current_dir()?.display().to_string());
    ensure!(
        inside("cat /proc/self/cgroup")? == fs::read_to_string("/proc/self/cgroup")?.trim_end()
    );
    let kinds = inside("cut -d' ' -f3 /proc/mounts")?;
    ensure!(
        kinds.lines().any(|kind| kind == "bpf"),
        "bpffs is not visible"
    );
    ensure!(
        kinds.lines().any(|kind| kind == "cgroup2"),
        "cgroup2 is not visible"
    );
    ensure!(!fs::read_to_string("/etc/hosts")?.contains("four.test"));

    let pid = sandbox.pid();
    drop(sandbox);
    ensure!(!proc::is_alive(pid));
    Ok(())
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn holder() -> Result<()> {
    if std::env::var_os(HOLD).is_some() {
        let sandbox = Sandbox::new(&SandboxOptions::default())?;
        println!("pid {}.", sandbox.pid());
        std::thread::sleep(Duration::from_mins(10));
    }
    Ok(())
}

const HOLD: &str = "TESTKIT_HOLD";

#[test]
fn nothing_outlives_a_killed_process() -> Result<()> {
    let files = TempDir::new("holder")?;
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLD, "1")
        // What it leaves behind when it is killed goes with this folder.
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(holder.stdout.take().context("no output")?);
    let pid = output.lines().map_while(Result::ok).find_map(|line| {
        // The test runner writes to the same line.
        line.split_once("pid ")?
            .1
            .trim_end_matches('.')
            .parse::<u32>()
            .ok()
    });
    let pid = pid.context("the holder named no process")?;
    ensure!(proc::is_alive(pid));
    holder.kill()?;
    holder.wait()?;
    for _ in 0..1000 {
        if !proc::is_alive(pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} outlives the one that started it")
}
