//! Faults in what Postern is given: one clear error, and nothing started.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::support::{self, World, output, stderr, stdout};

/// Runs a command with the manifest and expects the words in the error, and no run.
fn refused(world: &World, manifest: &Path, words: &[&str]) -> Result<()> {
    let run = world.run(&manifest.to_path_buf(), &["echo", "started"]);
    let output = output(run)?;
    let error = stderr(&output);
    ensure!(
        output.status.code() == Some(125),
        "{}: {error}",
        output.status
    );
    ensure!(stdout(&output).is_empty(), "the command was started");
    for word in words {
        ensure!(error.contains(word), "no {word:?} in: {error}");
    }
    ensure!(!error.contains(support::TOKEN), "the secret is in: {error}");
    Ok(())
}

#[test]
fn faults_in_manifests_name_file_document_field_and_fix() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let [good, secret] = support::bearer("api", "https://api.test");
    let file = "connectors.yaml";
    let cases: [(Vec<String>, &[&str]); 8] = [
        (
            vec![good.replace("address:", "adress:"), secret.clone()],
            &[file, "document 1", "adress"],
        ),
        (
            vec![good.clone()],
            &[file, "document 1", "spec.auth.secretRef", "api"],
        ),
        (
            vec![good.clone(), secret.replace("token:", "tokn:")],
            &[file, "token"],
        ),
        (
            vec![good.replace("https://api.test", "api.test"), secret.clone()],
            &[file, "spec.address", "https://"],
        ),
        (
            vec![
                good.replace("https://api.test", "https://u:p@api.test"),
                secret.clone(),
            ],
            &[file, "spec.address"],
        ),
        (
            vec![
                good.replace("https://api.test", "https://api.test?x=1"),
                secret.clone(),
            ],
            &[file, "spec.address", "query"],
        ),
        (
            vec![
                good.replace("generic-bearer", "generic-beerer"),
                secret.clone(),
            ],
            &[file, "spec.connectorClassName", "generic-beerer"],
        ),
        (
            vec![
                good.clone(),
                good.replace("name: api\nspec", "name: twin\nspec"),
                secret.clone(),
            ],
            &[file, "document 2", "spec.address"],
        ),
    ];
    for (documents, words) in cases {
        let manifest = world.manifest(&documents)?;
        refused(&world, &manifest, words)?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named() -> Result<()> {
    let world = World::new(&[])?;
    refused(
        &world,
        Path::new("/no/such/file.yaml"),
        &["/no/such/file.yaml"],
    )
}

#[test]
fn an_empty_command_line_is_explained() -> Result<()> {
    let world = World::new(&[])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    let output = output(world.run(&manifest, &[]))?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    ensure!(stderr(&output).contains("CMD"), "{}", stderr(&output));
    Ok(())
}

#[test]
fn manifests_come_from_several_files_and_standard_input() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let [connector, secret] = support::bearer("api", "https://api.test");
    let with_ca = world.manifest(&[connector])?;
    let mut run = world.postern(&["run", "-f"]);
    run.arg(with_ca).args(["-f", "-", "--", "echo", "started"]);
    let output = testkit::command::run_ok_with_input(run, secret.as_bytes())?;
    ensure!(stdout(&output) == "started");
    Ok(())
}

#[test]
fn without_the_rights_for_ebpf_nothing_is_attached() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    let mut run = world.sandbox.command("setpriv");
    run.args(["--bounding-set=-sys_admin,-bpf", "--inh-caps=-all"])
        .arg(env!("CARGO_BIN_EXE_postern"))
        .args(["run", "--mode", "transparent", "-f"])
        .arg(manifest)
        .args(["--", "echo", "started"]);
    let output = output(run)?;
    ensure!(output.status.code() == Some(125), "{output:?}");
    ensure!(stdout(&output).is_empty(), "the command was started");
    let error = stderr(&output);
    ensure!(
        error.contains("eBPF") && error.contains("--mode forward"),
        "{error}"
    );
    Ok(())
}

#[test]
fn manifests_from_a_descriptor_are_not_the_commands_to_read() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    for (file, redirection) in [("-", "<"), ("/dev/fd/7", "7<"), ("/dev/stdin", "<")] {
        let script = format!(
            "exec \"$0\" run -f {file} -- perl -e 'for my $fd (0..20) {{ if (open(my $f, \"<&=\", $fd)) \
             {{ seek($f, 0, 0); print grep {{ /Secret/ }} <$f> }} }} print \"done\"' {redirection} {}",
            manifest.display()
        );
        let mut run = world.sandbox.command("sh");
        run.args(["-c", &script, env!("CARGO_BIN_EXE_postern")]);
        let output = output(run)?;
        ensure!(stdout(&output) == "done", "{file}: {output:?}");
    }
    Ok(())
}

#[test]
fn an_agent_that_cannot_start_says_why() -> Result<()> {
    let files = testkit::TempDir::new("agent")?;
    let path = |name: &str| files.join(name).display().to_string();
    let agent = |controller: &str, cgroups: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["agent", "--node=node-1", "--controller", controller]);
        command.args(["--cgroup-root", cgroups, "--run-dir", &path("run")]);
        command.args([
            "--controller-ca",
            &path("ca.crt"),
            "--token-file",
            &path("token"),
        ]);
        output(command)
    };
    let refused = agent("controller-without-a-port", "/sys/fs/cgroup")?;
    let error = stderr(&refused);
    ensure!(refused.status.code() == Some(2), "{refused:?}");
    ensure!(
        error.contains("--controller") && error.contains("port"),
        "{error}"
    );

    // Nobody has made the directory for sockets, and nobody can below a file.
    files.write("run", "a file")?;
    let refused = agent("localhost:1", "/sys/fs/cgroup")?;
    let error = stderr(&refused);
    ensure!(refused.status.code() == Some(125), "{refused:?}");
    ensure!(error.contains(&path("run")), "{error}");
    Ok(())
}

#[test]
fn the_status_of_no_agent_is_a_failure_with_a_reason() -> Result<()> {
    let files = testkit::TempDir::new("status")?;
    for mode in [&[][..], &["--live"], &["--ready"], &["--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command
            .arg("status")
            .args(mode)
            .arg("--run-dir")
            .arg(files.path());
        let asked = output(command)?;
        ensure!(asked.status.code() == Some(1), "{asked:?}");
        ensure!(stdout(&asked).is_empty(), "{asked:?}");
        ensure!(stderr(&asked).contains("no agent answers"), "{asked:?}");
    }
    Ok(())
}
