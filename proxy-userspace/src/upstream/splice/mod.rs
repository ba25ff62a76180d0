//! Connections that no Connector wants, passed through byte for byte.
//!
//! Where there are many, the kernel moves the bytes, by splice(2) through a pipe: they are never
//! copied to user space.
//! Redirecting them in a sockmap would also spare the calls, but not a copy more. It would lose
//! what is asked of a passthrough here: data that waits in the socket when it is added is left
//! behind (everything that was peeked at), half-closed connections and resets are not passed on,
//! and on the kernels that Postern supports it has had data loss and crashes more than once.

mod carrier;
mod pipe;
mod relay;

use std::{io, net::SocketAddr, os::fd::AsFd};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{net::TcpStream, time::timeout};

pub use pipe::Pipes;
pub use relay::{Passed, relay};

use crate::{limits, workload::Egress};

/// Connects to where the workload wanted to go, by its own way out, and passes on until both
/// sides are done.
///
/// When the destination does not answer, the workload sees a reset instead of an orderly
/// end, as close to a failed `connect()` as an accepted connection can come.
pub async fn splice(
    client: TcpStream,
    egress: &Egress,
    destination: SocketAddr,
    pipes: &Pipes,
) -> Passed {
    let server = match timeout(limits::CONNECT, egress.connect(destination)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match server {
        Ok(server) => relay(client, server, pipes).await,
        Err(error) => {
            reset(&client);
            Passed {
                to_server: 0,
                to_client: 0,
                end: Err(error),
            }
        }
    }
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
