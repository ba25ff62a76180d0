//! Looking at the first bytes of a connection while they stay in its socket.

use std::{io, ops::ControlFlow, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{io::Interest, net::TcpStream};

use super::{Protocol, inspect, inspect_beginning};
use crate::limits;

/// Looks until the protocol is clear; for as long as that takes.
///
/// A look ends at urgent data. What we speak has none, so nothing behind it has to be seen.
pub(super) async fn peek(stream: &TcpStream) -> io::Result<Protocol> {
    if let Some(protocol) = at_once(stream) {
        return Ok(protocol);
    }
    // One that stays silent costs no memory.
    stream.readable().await?;
    let mut buffer = vec![0; limits::PEEK_BYTES_AT_FIRST];
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let n = recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
            // Nothing new: clears the readiness, so that the next segment wakes us.
            if n == seen && !is_urgent(stream, &mut buffer, seen)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match peeked {
            Ok(n) if n == seen => return Ok(Protocol::Opaque),
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

/// The protocol, if what is there already tells it, as it mostly does when a connection comes from
/// the backlog. Then neither the event loop nor a timer is asked for.
fn at_once(stream: &TcpStream) -> Option<Protocol> {
    let mut buffer = [0; limits::PEEK_BYTES_AT_FIRST];
    // What fails will fail again.
    let seen = recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK).ok()?;
    inspect(&buffer[..seen]).break_value()
}

/// Whether urgent data is what a look ends at: more was there before it than it shows. Such data
/// has to be kept in line (`SO_OOBINLINE`), as the listeners have it; otherwise the kernel does
/// not count what is behind it.
fn is_urgent(stream: &TcpStream, buffer: &mut [u8], seen: usize) -> io::Result<bool> {
    let there = rustix::io::ioctl_fionread(stream)?;
    Ok(there > seen as u64 && recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)? == seen)
}
