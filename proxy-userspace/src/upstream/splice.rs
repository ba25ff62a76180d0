//! Connections that no Connector wants, passed through byte for byte.

use std::{io, net::SocketAddr, os::fd::AsFd};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream, time::timeout};

use crate::{limits, workload::Egress};

const BUFFER_BYTES: usize = 64 * 1024;

/// Connects to where the workload wanted to go, by its own way out, and copies until both
/// sides are done.
///
/// When the destination does not answer, the workload sees a reset instead of an orderly
/// end, as close to a failed `connect()` as an accepted connection can come.
pub async fn splice(
    client: TcpStream,
    egress: &Egress,
    destination: SocketAddr,
) -> io::Result<(u64, u64)> {
    let server = match timeout(limits::CONNECT, egress.connect(destination)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match server {
        Ok(server) => relay(client, server).await,
        Err(error) => {
            reset(&client);
            Err(error)
        }
    }
}

/// Copies between two connections until both sides are done.
pub async fn relay(mut client: TcpStream, mut server: TcpStream) -> io::Result<(u64, u64)> {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let copied =
        copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
    if copied.is_err() {
        reset(&client);
        reset(&server);
    }
    copied
}

/// Makes closing `stream` send a reset instead of an orderly end.
pub fn reset(stream: &impl AsFd) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // Without it the peer sees an orderly end, which is no worse.
    let _ = setsockopt(stream, sockopt::Linger, &linger);
}
