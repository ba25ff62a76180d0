//! What is passed through by a whole proxy: thousands of connections leave nothing behind.

use anyhow::{Context, Result, ensure};
use testkit::{Server, SiteAuth};

use crate::support::{self, ADDRESS, TOKEN, World, counter, ok, stdout};

/// Makes connections that are no Connector's, some before and many after it has looked at the
/// descriptors of Postern, its parent. Speaks to the server, if need be through a proxy, until the
/// server has closed.
const CLIENT: &str = r#"
import base64, os, socket, sys, time, urllib.parse
address, tunnels = sys.argv[1], int(sys.argv[2])
proxy = os.environ.get("https_proxy")

def exchange():
    if proxy:
        url = urllib.parse.urlsplit(proxy)
        user = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        stream = socket.create_connection((url.hostname, url.port))
        # The first bytes come along with the head.
        stream.sendall(f"CONNECT {address}:443 HTTP/1.1\r\nHost: {address}:443\r\n"
                       f"Proxy-Authorization: Basic {user}\r\n\r\nno ".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.recv(1)
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 200 "), head
    else:
        stream = socket.create_connection((address, 443))
        stream.sendall(b"no ")
    stream.sendall(b"TLS\r\n\r\n")
    stream.shutdown(socket.SHUT_WR)
    answer = b""
    while piece := stream.recv(65536):
        answer += piece
    stream.close()
    assert b"400 Bad Request" in answer, answer

def descriptors():
    return len(os.listdir(f"/proc/{os.getppid()}/fd"))

def settled(most):
    for _ in range(500):
        if descriptors() <= most:
            break
        time.sleep(0.01)
    return descriptors()

for _ in range(50):
    exchange()
time.sleep(0.2)
before = descriptors()
for _ in range(tunnels):
    exchange()
print(before, settled(before))
"#;

fn leaves_nothing_behind(mode: &str) -> Result<()> {
    const TUNNELS: u64 = 2_000;
    // Pipes that are kept.
    const SPARE: u64 = 40;
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let tunnels = TUNNELS.to_string();
    let output = ok(world.run_with(
        &manifest,
        &["--stats", "--mode", mode],
        &["/usr/bin/python3", "-c", CLIENT, ADDRESS, &tunnels],
    ))?;
    let text = stdout(&output);
    let (before, after) = text.split_once(' ').context("not two numbers")?;
    let (before, after): (u64, u64) = (before.parse()?, after.parse()?);
    ensure!(
        after <= before + SPARE,
        "{before} descriptors, then {after}"
    );
    let spliced = counter(&output, "spliced")?;
    ensure!(spliced == TUNNELS + 50, "{output:?}");
    ensure!(
        counter(&output, "spliced_bytes")? > spliced * 100,
        "{output:?}"
    );
    Ok(())
}

#[test]
fn thousands_of_redirected_connections_leave_no_descriptor() -> Result<()> {
    leaves_nothing_behind("transparent")
}

#[test]
fn thousands_of_tunnels_leave_no_descriptor() -> Result<()> {
    leaves_nothing_behind("forward")
}

/// Sends back what came until the end of a line, the byte in the middle as urgent data.
const URGENT_ECHO: &str = r#"
import socket, sys
server = socket.create_server((sys.argv[1], 443))
while True:
    client, _ = server.accept()
    line = bytearray()
    while not line.endswith(b"\n") and (piece := client.recv(65536)):
        line += piece
    middle = len(line) // 2
    client.sendall(line[:middle])
    client.send(line[middle:middle + 1], socket.MSG_OOB)
    client.sendall(line[middle + 1:])
    client.close()
"#;

/// Sends lines with an urgent byte somewhere. The longer ones are more than all buffers hold, so
/// that urgent data meets splice(2); others end where the first bytes are looked at. With and
/// without an end behind them: what stops at urgent data either hangs or takes it for the end.
const URGENT_CLIENT: &str = r#"
import socket, sys, threading
LINES = [(b"", b"hello\n"), (b"GE", b"T\n"), (b"\x16\x03", b"\x01\n"), (b"\xff", b"\n"),
         (b"x" * 70000, b"\n"), (b"x" * 20_000_000, b"y" * 20_000_000 + b"\n")]
for before, after in LINES:
    for ends in [False, True]:
        stream = socket.create_connection((sys.argv[1], 443), timeout=60)
        def send():
            if before:
                stream.sendall(before)
            stream.send(b"!", socket.MSG_OOB)
            stream.sendall(after)
            if ends:
                stream.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        answer = bytearray()
        while piece := stream.recv(1 << 20):
            answer += piece
        sender.join()
        line = before + b"!" + after
        assert answer == line, (ends, len(before), len(line), len(answer), answer[:20])
print("all of it")
"#;

/// Old clients, of telnet and FTP, send urgent data.
#[test]
fn urgent_data_stays_in_its_place_and_stops_nothing() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let mut python = world.sandbox.command("/usr/bin/python3");
    python.args(["-c", URGENT_ECHO, ADDRESS]);
    let _echo = Server::listening(&python, &world.files.join("echo.log"), 443)?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    let output = ok(world.run_with(
        &manifest,
        &["--stats"],
        &["/usr/bin/python3", "-c", URGENT_CLIENT, ADDRESS],
    ))?;
    ensure!(stdout(&output) == "all of it", "{output:?}");
    ensure!(counter(&output, "spliced")? == 12, "{output:?}");
    Ok(())
}
