//! More connections than there may be: by the limit of open files, with and without Postern's own
//! limits below it.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use testkit::SiteAuth;

use crate::support::{self, ADDRESS, TOKEN, counter, ok, stdout};

/// Has all of its connections open at the same time, as far as the server gets to see them, and
/// then finishes one after the other.
const CLIENT: &str = r#"
import socket, sys
address, number = sys.argv[1], int(sys.argv[2])
streams = []
for _ in range(number):
    stream = socket.create_connection((address, 443))
    # Neither TLS nor HTTP: passed through.
    stream.sendall(b"no ")
    streams.append(stream)
for stream in streams:
    stream.sendall(b"TLS\r\n\r\n")
    answer = b""
    while piece := stream.recv(65536):
        answer += piece
    stream.close()
    assert b"400 Bad Request" in answer, answer
"#;

/// Clients with some connections each, with so many open files for Postern and each of them.
fn run(open_files: usize, options: &[&str], clients: usize, each: usize) -> Result<Output> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let script = format!(
        "for n in $(seq {clients}); do /usr/bin/python3 -c '{CLIENT}' {ADDRESS} {each} & \
         pids=\"$pids $!\"; done; for pid in $pids; do wait $pid || exit 1; done"
    );
    let mut limited: Command = world.sandbox.command("prlimit");
    limited
        .arg(format!("--nofile={open_files}:{open_files}"))
        .arg(env!("CARGO_BIN_EXE_postern"))
        .args(["run", "--stats", "--mode", "transparent"])
        .args(options)
        .arg("-f")
        .arg(manifest)
        .args(["--", "bash", "-c", &script]);
    ok(limited)
}

#[test]
fn connections_beyond_the_limit_wait_and_are_served() -> Result<()> {
    let output = run(256, &[], 1, 120)?;
    ensure!(counter(&output, "spliced")? == 120, "{output:?}");
    ensure!(counter(&output, "held_up")? > 0, "{output:?}");
    ensure!(counter(&output, "failed_accepts")? == 0, "{output:?}");
    Ok(())
}

#[test]
fn a_limit_of_its_own_holds_a_workload_up() -> Result<()> {
    let output = run(1024, &["--connections-per-workload=5"], 1, 30)?;
    ensure!(counter(&output, "spliced")? == 30, "{output:?}");
    ensure!(counter(&output, "held_up")? > 0, "{output:?}");
    Ok(())
}

/// With limits that promise more than there is, `accept()` fails as long as descriptors are short.
/// It is tried again now and then; a loop would fail tens of thousands of times. Once there are
/// descriptors again, who comes is served.
#[test]
fn without_descriptors_accepting_does_not_spin_and_recovers() -> Result<()> {
    // The clients end after a while whatever becomes of them: connections fail.
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let client = CLIENT.split("for stream in streams").next().unwrap_or("");
    let script = format!(
        "for n in 1 2 3; do /usr/bin/python3 -c '{client}\nimport time\ntime.sleep(2)' \
         {ADDRESS} 80 & done; wait; curl --silent --show-error --max-time 60 https://api.test/ \
         --output /dev/null --write-out '%{{http_code}}'"
    );
    let mut limited: Command = world.sandbox.command("prlimit");
    limited
        .arg("--nofile=128:128")
        .arg(env!("CARGO_BIN_EXE_postern"))
        .args(["run", "--stats", "--mode", "transparent"])
        .args(["--connections", "100000", "-f"])
        .arg(manifest)
        .args(["--", "bash", "-c", &script]);
    let output = ok(limited)?;
    let failed = counter(&output, "failed_accepts")?;
    ensure!(failed > 0 && failed < 2_000, "{output:?}");
    ensure!(stdout(&output) == "200", "{output:?}");
    ensure!(counter(&output, "injected")? == 1, "{output:?}");
    Ok(())
}
