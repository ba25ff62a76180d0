//! What bytes of one direction travel in between two sockets: memory, or a pipe for many.

use std::io;

use nix::errno::Errno;
use tokio::net::TcpStream;

use super::pipe::{Lent, Pipes};
use crate::limits;

/// Bytes of one direction on their way.
///
/// Memory is tried first: for few bytes no pipe is needed. Where a read fills it there are more, and
/// a pipe takes them. When splice(2) has no more, a read has the last word:
/// splice(2) stops at urgent data, and then looks as if the stream had nothing, or had ended.
#[derive(Debug)]
pub(super) struct Carrier<'a> {
    pipes: &'a Pipes,
    lease: Lease<'a>,
    memory: Vec<u8>,
    /// How much of the memory has been given on.
    given: usize,
    /// Whether the two sockets can be spliced, as far as is known.
    splices: bool,
    /// Whether there was more than the last read could take.
    many: bool,
}

/// Whether there is a pipe.
#[derive(Debug)]
enum Lease<'a> {
    NotAsked,
    Pipe(Lent<'a>),
    /// Not to be asked again before the connection has been idle.
    Refused,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(pipes: &'a Pipes) -> Self {
        Self {
            pipes,
            lease: Lease::NotAsked,
            memory: Vec::new(),
            given: 0,
            splices: true,
            many: false,
        }
    }

    /// Bytes that were taken and not yet given on.
    pub(super) fn held(&self) -> usize {
        let piped = match &self.lease {
            Lease::Pipe(pipe) => pipe.held(),
            Lease::NotAsked | Lease::Refused => 0,
        };
        self.memory.len() - self.given + piped
    }

    /// Keeps neither pipe nor memory while nothing is on its way.
    pub(super) fn rest(&mut self) {
        self.lease = Lease::NotAsked;
        self.memory = Vec::new();
        self.given = 0;
    }

    /// Takes what a socket has; 0 at its end. Nothing may be held.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        if self.many {
            let spliced = self.splice(from)?;
            if spliced > 0 {
                self.many = spliced >= limits::SPLICE_FEW;
                return Ok(spliced);
            }
        }
        self.memory.clear();
        self.given = 0;
        let size = match self.lease {
            Lease::Refused if self.many => limits::SPLICE_MEMORY,
            _ => limits::SPLICE_FEW,
        };
        self.memory.reserve_exact(size);
        let read = uninterrupted(|| from.try_read_buf(&mut self.memory))?;
        self.many = read == self.memory.capacity();
        Ok(read)
    }

    /// Takes what splice(2) gives; 0 if that is nothing, for whatever reason.
    fn splice(&mut self, from: &TcpStream) -> io::Result<usize> {
        if let Lease::NotAsked = self.lease {
            let lent = self.splices.then(|| self.pipes.lend()).flatten();
            self.lease = lent.map_or(Lease::Refused, Lease::Pipe);
        }
        let Lease::Pipe(pipe) = &mut self.lease else {
            return Ok(0);
        };
        match uninterrupted(|| pipe.fill(from)) {
            Err(error) if cannot_splice(&error) => {
                self.splices = false;
                self.lease = Lease::Refused;
                Ok(0)
            }
            filled => filled,
        }
    }

    /// Gives a socket what it takes of what is held, which may not be nothing.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        if let Lease::Pipe(pipe) = &mut self.lease
            && pipe.held() > 0
        {
            match uninterrupted(|| pipe.drain(to)) {
                Err(error) if cannot_splice(&error) => {
                    self.memory = pipe.empty()?;
                    self.given = 0;
                    self.splices = false;
                    self.lease = Lease::Refused;
                }
                drained => return some(drained),
            }
        }
        let drained = uninterrupted(|| to.try_write(&self.memory[self.given..]));
        if let Ok(n) = drained {
            self.given += n;
        }
        some(drained)
    }
}

/// Asks again after a signal.
fn uninterrupted(mut ask: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// What a socket took, which is never nothing.
fn some(taken: io::Result<usize>) -> io::Result<usize> {
    match taken {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        taken => taken,
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

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
    async fn few_bytes_are_copied_and_many_get_a_pipe_if_there_is_one() {
        const FEW: usize = 6;
        const MANY: usize = 5 * limits::SPLICE_FEW + 1;
        for limit in [1, 0] {
            let pipes = Pipes::new(limit);
            let (mut near, far) = pair().await;
            let (mut read, mut write) = near.split();
            let mut carrier = Carrier::new(&pipes);
            // After many there may be many again, so the next one gets a pipe as well.
            for (length, lent) in [
                (FEW, Some(0)),
                (MANY, Some(limit)),
                (FEW, None),
                (FEW, Some(0)),
            ] {
                let content: Vec<u8> = (0..length).map(|n| (n % 251).to_le_bytes()[0]).collect();
                let mut came = vec![0; length];
                let (wrote, came_all, ()) = tokio::join!(
                    write.write_all(&content),
                    read.read_exact(&mut came),
                    echo(&mut carrier, &far, length),
                );
                wrote.expect("a connection");
                came_all.expect("all of it");
                assert!(came == content, "other bytes arrived");
                assert_eq!(carrier.held(), 0);
                assert!(lent.is_none_or(|lent| pipes.lent() == lent));
                carrier.rest();
                assert_eq!(pipes.lent(), 0);
            }
        }
    }

    /// Sends back what comes.
    async fn echo(carrier: &mut Carrier<'_>, stream: &TcpStream, length: usize) {
        let mut passed = 0;
        while passed < length {
            match carrier.fill(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.readable().await.expect("bytes");
                    continue;
                }
                filled => assert_eq!(filled.expect("bytes"), carrier.held()),
            }
            while carrier.held() > 0 {
                stream.writable().await.expect("room");
                match carrier.drain(stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    drained => passed += drained.expect("room"),
                }
            }
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
