//! Pipes between two sockets, kept for the next bytes by whatever connection.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::{pipe2, read},
};
use tokio::{io::Interest, net::TcpStream};

use crate::limits;

/// The pipes of one worker. A connection has one only while bytes are on their way through it,
/// so that idle connections cost no descriptors.
#[derive(Debug)]
pub struct Pipes {
    /// How many there may be, those that are lent included.
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spare: Vec<Pipe>,
    lent: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe that goes back when it is dropped, or is closed if it is not empty: nobody else may
/// read what is in it.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    pipes: &'a Pipes,
    pipe: Option<Pipe>,
    /// Bytes in it.
    held: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new(limits::SPLICE_PIPES)
    }
}

impl Pipes {
    /// At most `limit` pipes; what finds none is copied.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// Pipes that are in use.
    pub fn lent(&self) -> usize {
        self.state().lent
    }

    /// An empty pipe; `None` if there can be no more of them now.
    pub(super) fn lend(&self) -> Option<Lent<'_>> {
        let mut state = self.state();
        if state.lent >= self.limit {
            return None;
        }
        let pipe = match state.spare.pop() {
            Some(pipe) => pipe,
            None => Pipe::open().ok()?,
        };
        state.lent += 1;
        Some(Lent {
            pipes: self,
            pipe: Some(pipe),
            held: 0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    fn open() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused to users who have reached their share, who may get smaller ones as well.
        let size = fcntl(&write, FcntlArg::F_SETPIPE_SZ(limits::SPLICE_PIPE_BYTES))
            .or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))?;
        if size < limits::SPLICE_PIPE_LEAST {
            return Err(Errno::ENOBUFS);
        }
        Ok(Self { read, write })
    }
}

impl Lent<'_> {
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes what splice(2) gives of a socket; 0 if that is nothing, which does not mean that the
    /// socket has nothing.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = from.try_io(Interest::READABLE, || {
            match splice(from, None, &pipe.write, None, limits::SPLICE_TURN, FLAGS) {
                // Lest the socket count as empty.
                Err(Errno::EAGAIN) => Ok(0),
                spliced => Ok(spliced?),
            }
        })?;
        self.held += n;
        Ok(n)
    }

    /// Gives a socket what it takes. Where it has gone away there is no SIGPIPE, which Rust
    /// programs ignore.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = to.try_io(Interest::WRITABLE, || {
            Ok(splice(&pipe.read, None, to, None, self.held, FLAGS)?)
        })?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }

    /// Takes out what is in it.
    pub(super) fn empty(&mut self) -> io::Result<Vec<u8>> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut bytes = vec![0; self.held];
        let mut filled = 0;
        while filled < bytes.len() {
            match read(&pipe.read, &mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        self.held = 0;
        Ok(bytes)
    }
}

/// Neither end of a pipe is waited for; sockets are non-blocking by themselves.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pipes.state();
        state.lent -= 1;
        if self.held == 0 && state.spare.len() < limits::SPLICE_SPARE_PIPES {
            state.spare.extend(self.pipe.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::write;

    use super::*;

    #[test]
    fn a_pipe_comes_back_only_if_it_is_empty() {
        let pipes = Pipes::default();
        drop(pipes.lend().expect("a pipe"));
        assert_eq!(pipes.state().spare.len(), 1);
        let mut lent = pipes.lend().expect("a pipe");
        assert_eq!((pipes.lent(), pipes.state().spare.len()), (1, 0));
        let pipe = lent.pipe.as_ref().expect("a pipe");
        lent.held = write(&pipe.write, b"of one connection").expect("room");
        drop(lent);
        assert_eq!((pipes.lent(), pipes.state().spare.len()), (0, 0));
    }

    #[test]
    fn what_is_in_it_can_be_taken_out() {
        let pipes = Pipes::default();
        let mut lent = pipes.lend().expect("a pipe");
        let pipe = lent.pipe.as_ref().expect("a pipe");
        lent.held = write(&pipe.write, b"bytes").expect("room");
        assert_eq!(lent.empty().expect("bytes"), b"bytes");
        drop(lent);
        assert_eq!(pipes.state().spare.len(), 1);
    }

    #[test]
    fn there_are_no_more_than_the_limit_and_few_are_kept() {
        let pipes = Pipes::new(limits::SPLICE_SPARE_PIPES + 1);
        let lent: Vec<_> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!(lent.len(), limits::SPLICE_SPARE_PIPES + 1);
        drop(lent);
        assert_eq!(pipes.state().spare.len(), limits::SPLICE_SPARE_PIPES);
    }
}
