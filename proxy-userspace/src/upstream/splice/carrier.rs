//! What bytes travel in between two sockets: a pipe, or memory where there is none.

use std::io;

use nix::errno::Errno;
use tokio::net::TcpStream;

use super::pipe::{Lent, Pipes};
use crate::limits;

/// Bytes of one direction on their way.
#[derive(Debug)]
pub(super) enum Carrier<'a> {
    Pipe(Lent<'a>),
    Memory { bytes: Vec<u8>, start: usize },
}

impl<'a> Carrier<'a> {
    /// An empty one: a pipe if there is one and the sockets can be spliced.
    pub(super) fn new(pipes: &'a Pipes, splices: bool) -> Self {
        let lent = splices.then(|| pipes.lend()).flatten();
        lent.map_or_else(Self::memory, Self::Pipe)
    }

    fn memory() -> Self {
        Self::Memory {
            bytes: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn held(&self) -> usize {
        match self {
            Self::Pipe(pipe) => pipe.held(),
            Self::Memory { bytes, start } => bytes.len() - start,
        }
    }

    pub(super) fn is_pipe(&self) -> bool {
        matches!(self, Self::Pipe(_))
    }

    /// Takes what a socket has; 0 at its end. Nothing may be held.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        loop {
            let filled = match self {
                Self::Pipe(pipe) => pipe.fill(from),
                Self::Memory { bytes, start } => {
                    bytes.clear();
                    *start = 0;
                    bytes.reserve(limits::SPLICE_MEMORY);
                    from.try_read_buf(bytes)
                }
            };
            match filled {
                Err(error) if self.is_pipe() && cannot_splice(&error) => *self = Self::memory(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                filled => return filled,
            }
        }
    }

    /// Gives a socket what it takes of what is held.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        loop {
            let drained = match self {
                Self::Pipe(pipe) => pipe.drain(to),
                Self::Memory { bytes, start } => {
                    to.try_write(&bytes[*start..]).inspect(|n| *start += n)
                }
            };
            match (drained, &mut *self) {
                (Err(error), Self::Pipe(pipe)) if cannot_splice(&error) => {
                    let bytes = pipe.empty()?;
                    *self = Self::Memory { bytes, start: 0 };
                }
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Ok(0), _) => return Err(io::ErrorKind::WriteZero.into()),
                (drained, _) => return drained,
            }
        }
    }
}

/// A kind of socket that the kernel does not splice.
fn cannot_splice(error: &io::Error) -> bool {
    [Errno::EINVAL, Errno::EOPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let near = TcpStream::connect(address).await.expect("a connection");
        let (far, _) = listener.accept().await.expect("a connection");
        (near, far)
    }

    #[tokio::test]
    async fn both_kinds_carry_and_know_what_they_hold() {
        for pipes in [Pipes::new(1), Pipes::new(0)] {
            let (near, far) = pair().await;
            near.writable().await.expect("room");
            assert_eq!(near.try_write(b"peeked").expect("room"), 6);
            far.readable().await.expect("bytes");
            let mut carrier = Carrier::new(&pipes, true);
            assert_eq!(carrier.is_pipe(), pipes.lent() == 1);
            assert_eq!(carrier.fill(&far).expect("bytes"), 6);
            assert_eq!(carrier.held(), 6);
            far.writable().await.expect("room");
            assert_eq!(carrier.drain(&far).expect("room"), 6);
            assert_eq!(carrier.held(), 0);
            near.readable().await.expect("bytes");
            let mut bytes = [0; 10];
            assert_eq!(near.try_read(&mut bytes).expect("bytes"), 6);
            assert_eq!(&bytes[..6], b"peeked");
        }
    }

    #[test]
    fn sockets_that_cannot_be_spliced_are_told_from_those_that_failed() {
        assert!(cannot_splice(&Errno::EINVAL.into()));
        assert!(cannot_splice(&Errno::EOPNOTSUPP.into()));
        assert!(!cannot_splice(&Errno::ECONNRESET.into()));
        assert!(!cannot_splice(&Errno::EAGAIN.into()));
    }
}
