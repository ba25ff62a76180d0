//! Looking at the first bytes of a connection while they stay in its socket.

use std::{io, ops::ControlFlow, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{io::Interest, net::TcpStream};

use super::{Protocol, inspect, inspect_beginning};
use crate::limits;

/// Looks until the protocol is clear; for as long as that takes.
pub(super) async fn peek(stream: &TcpStream) -> io::Result<Protocol> {
    // One that stays silent costs no memory.
    stream.readable().await?;
    let mut buffer = vec![0; limits::PEEK_BYTES_AT_FIRST];
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let n = recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
            // Nothing new: clears the readiness, so that the next segment wakes us.
            if n == seen {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match peeked {
            Ok(n) => seen = n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Ok(Protocol::Opaque);
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        if let ControlFlow::Break(protocol) = inspect(&buffer[..seen]) {
            return Ok(protocol);
        }
        if seen == limits::PEEK_BYTES {
            return Ok(inspect_beginning(&buffer));
        }
        if seen == buffer.len() {
            buffer.resize(limits::PEEK_BYTES, 0);
        }
    }
}
