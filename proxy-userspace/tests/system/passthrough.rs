//! What is passed through by a whole proxy: thousands of connections leave nothing behind.

use anyhow::{Context, Result, ensure};
use testkit::SiteAuth;

use crate::support::{self, ADDRESS, TOKEN, counter, ok, stdout};

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
