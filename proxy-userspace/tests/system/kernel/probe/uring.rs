//! `connect()` through io_uring.
#![expect(unsafe_code, reason = "a submission names memory by its address")]

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use io_uring::{IoUring, opcode, squeue, types};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// Connects and waits; with `by_worker` a thread of the kernel does it.
pub(super) fn connect(
    socket: BorrowedFd<'_>,
    address: SocketAddr,
    by_worker: bool,
) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let address = SockaddrStorage::from(address);
    let fd = types::Fd(socket.as_raw_fd());
    let mut entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
    if by_worker {
        entry = entry.flags(squeue::Flags::ASYNC);
    }
    // SAFETY: socket and address outlive the wait for the completion below.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next();
    let completion = completion.ok_or_else(|| io::Error::other("no completion"))?;
    match completion.result() {
        0.. => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}
