//! Clients that do not speak at once.

use anyhow::{Result, ensure};
use testkit::{Server, SiteAuth};

use crate::support::{self, ADDRESS, TOKEN, World, counter, ok, stderr, stdout};

/// Longer than the server is left alone.
const LATE: &str = "4";

#[test]
fn a_slow_client_keeps_its_credential() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let _haproxy = world.haproxy(80, "")?;
    let manifest = world.manifest(&support::bearer("api", "http://api.test"))?;
    let script = format!(
        "exec 3<>/dev/tcp/api.test/80; sleep {LATE}; printf 'GET / HTTP/1.1\\r\\n' >&3; sleep {LATE}; \
         printf 'Host: api.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
    );
    let output = ok(world.run_with(&manifest, &["--stats"], &["bash", "-c", &script]))?;
    ensure!(stdout(&output).ends_with("yes"), "{output:?}");
    ensure!(counter(&output, "injected")? == 1 && counter(&output, "spliced")? == 0);
    Ok(())
}

const GREETER: &str = "
import socket, sys
server = socket.create_server((sys.argv[1], 80))
while True:
    client, _ = server.accept()
    client.sendall(b'220 ready\\n')
    client.sendall(client.recv(100).upper())
    client.close()
";

#[test]
fn a_server_that_speaks_first_is_passed_through() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let mut python = world.sandbox.command("/usr/bin/python3");
    python.args(["-c", GREETER, ADDRESS]);
    let _greeter = Server::listening(&python, &world.files.join("greeter.log"), 80)?;
    let manifest = world.manifest(&support::bearer("api", "http://api.test"))?;
    let script = "exec 3<>/dev/tcp/api.test/80; read -r ready <&3; echo hello >&3; \
                  read -r hello <&3; echo $ready, $hello";
    let output = ok(world.run_with(&manifest, &["--stats"], &["bash", "-c", script]))?;
    ensure!(stdout(&output) == "220 ready, HELLO", "{output:?}");
    ensure!(counter(&output, "spliced")? == 1);
    Ok(())
}

/// Waits for a server like many scripts do: a connection that opens is enough.
const PROBES: &str = "
import socket, sys
for _ in range(200):
    socket.create_connection((sys.argv[1], 443)).close()
";

#[test]
fn who_only_tries_whether_it_can_connect_is_no_stranger() -> Result<()> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let output = ok(world.run_with(
        &manifest,
        &["--stats", "--mode=transparent"],
        &["/usr/bin/python3", "-c", PROBES, ADDRESS],
    ))?;
    ensure!(counter(&output, "redirected")? == 200, "{output:?}");
    let log = stderr(&output);
    ensure!(!log.contains("no enrolled workload"), "{log}");
    Ok(())
}
