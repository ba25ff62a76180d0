//! Ports.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(20);
/// The kernel's number for the state of a listening socket.
const LISTENING: &str = "0A";

/// A port of the loopback address that nobody uses at the moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    let port = listener
        .local_addr()
        .context("a listener without an address")?
        .port();
    drop(listener);
    wait_closed(port)?;
    Ok(port)
}

/// A process that another thread starts at this moment holds a copy of our socket until it
/// has become its program.
fn wait_closed(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if !listens(std::process::id(), port) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("port {port} stays in use")
}

/// Waits until something accepts connections on an address of this machine.
pub fn wait_port(address: SocketAddr, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    bail!("nothing accepts connections on {address}")
}

/// Whether a socket listens on a TCP port in the network namespace of a process. Needs no
/// connection, hence leaves no trace in the server's log, and works from any namespace.
pub fn listens(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().skip(1).any(|line| is_listener(line, port))
    })
}

/// A line is: number, local address, remote address, state, …
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    let state = fields.nth(1);
    state == Some(LISTENING)
        && local.is_some_and(|(_, digits)| u16::from_str_radix(digits, 16) == Ok(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_listener_and_no_longer_when_it_is_closed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(std::process::id(), address.port()));
        wait_port(address, Duration::from_secs(5)).unwrap();
        drop(listener);
        wait_closed(address.port()).unwrap();
        assert!(wait_port(address, Duration::from_millis(50)).is_err());
    }
}
