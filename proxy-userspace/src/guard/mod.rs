//! HTTP/1.1 requests as they come, before hyper reads them.
//!
//! hyper repairs some of what has to be refused: it drops a Content-Length beside
//! Transfer-Encoding and one that is repeated, takes LF for the end of a line, cuts a fragment
//! from the target. Afterwards nobody can tell. A [`Guard`] lies between the connection and
//! hyper and sees every byte first.
//!
//! To see the heads it follows the framing of the messages. It accepts one spelling of that
//! alone, the strictest: what the guard lets pass, hyper cannot read in another way.
//!
//! In place of a head that is refused hyper gets a placeholder, so that the answer takes its
//! turn behind those of earlier requests; [`Requests::next`] has the reason. Nothing that
//! follows such a head is read as a request.

mod chunks;
mod framing;
mod head;
mod patient;
#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

pub use patient::Patient;

use chunks::Fault;
use framing::{Framing, Stop};

use crate::{gate::Refusal, limits};

/// What hyper reads in place of a head that is refused.
const PLACEHOLDER: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// A client's HTTP/1.1 connection of which only sound requests can be read.
#[derive(Debug)]
pub struct Guard<IO> {
    io: Patient<IO>,
    framing: Framing,
    /// Read and not passed on.
    held: BytesMut,
    /// How much of it may be passed on.
    free: usize,
    /// Why the body that is being read ends there.
    fault: Option<Fault>,
    shared: Arc<Mutex<Shared>>,
    farewell: Option<Farewell>,
}

/// The requests of a guarded connection, in the order in which hyper brings them.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// Requests that hyper has brought.
    brought: u64,
    /// Which one stands for a head that is refused, and why.
    refused: Option<(u64, Refusal)>,
    /// Answers that were given.
    answered: u64,
    /// Whether the last one changes the protocol.
    switches: bool,
    waits: Option<Waker>,
}

/// The end of a connection on which more may come than anybody reads: closed at once it would
/// be reset, and the client would not see why.
#[derive(Debug)]
struct Farewell {
    time: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<IO> Guard<IO> {
    /// Guards a connection from its first byte. The client may read nothing for `patience`.
    pub fn new(io: IO, patience: Duration) -> (Self, Requests) {
        let shared = Arc::<Mutex<Shared>>::default();
        let guard = Self {
            io: Patient::new(io, patience),
            framing: Framing::new(),
            held: BytesMut::new(),
            free: 0,
            fault: None,
            shared: Arc::clone(&shared),
            farewell: None,
        };
        (guard, Requests(shared))
    }

    /// The connection itself, once it is no longer one of HTTP, and what was read of it and not
    /// passed on.
    pub fn into_parts(self) -> (IO, BytesMut) {
        (self.io.into_inner(), self.held)
    }

    /// Puts what was read behind what is held, and frees what may be passed on.
    fn take(&mut self, read: &[u8]) {
        self.held.extend_from_slice(read);
        let passed = self.framing.advance(&self.held);
        self.free = passed.bytes;
        if let Some(stop) = passed.stop {
            self.stop(stop);
        }
    }

    fn stop(&mut self, stop: Stop) {
        // What may still be passed on comes before what may not.
        self.held.truncate(self.free);
        match stop {
            Stop::Head(refusal) => {
                lock(&self.shared).refused = Some((self.framing.heads() + 1, refusal));
                self.held.extend_from_slice(PLACEHOLDER);
                self.free = self.held.len();
            }
            Stop::Body(fault) => self.fault = Some(fault),
        }
    }
}

impl Requests {
    /// Has to be called for each request that hyper brings: why it is refused.
    pub fn next(&self) -> Option<Refusal> {
        let mut shared = lock(&self.0);
        shared.brought += 1;
        let now = shared.brought;
        let (_, refusal) = shared.refused.take_if(|(n, _)| *n == now)?;
        Some(refusal)
    }

    /// Has to be called before each answer is given: whether it changes the protocol.
    pub fn answer(&self, switches: bool) {
        let mut shared = lock(&self.0);
        shared.answered += 1;
        shared.switches = switches;
        if let Some(waits) = shared.waits.take() {
            waits.wake();
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.free > 0 {
                let n = this.free.min(buffer.remaining());
                buffer.put_slice(&this.held[..n]);
                this.held.advance(n);
                this.free -= n;
                return Poll::Ready(Ok(()));
            }
            if let Some(fault) = this.fault.take() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
            }
            if this.framing.is_stopped() {
                // The placeholder or the error ends the connection.
                return Poll::Pending;
            }
            if this.framing.waits() {
                let mut shared = lock(&this.shared);
                if shared.answered >= this.framing.heads() {
                    let switches = shared.switches;
                    drop(shared);
                    this.framing.answered(switches);
                    if switches {
                        // The other protocol has rules of its own.
                        this.io.relent();
                    }
                    this.take(&[]);
                    continue;
                }
                shared.waits = Some(context.waker().clone());
                // Who sends on without waiting is held up.
                if this.held.len() >= limits::HEAD_BYTES {
                    return Poll::Pending;
                }
            }
            let filled = buffer.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
            let read = &buffer.filled()[filled..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.take(read);
                buffer.set_filled(filled);
                continue;
            }
            // The usual case: everything may be passed on where it is.
            let passed = this.framing.advance(read);
            this.held.extend_from_slice(&read[passed.bytes..]);
            buffer.set_filled(filled + passed.bytes);
            if let Some(stop) = passed.stop {
                this.stop(stop);
            }
            if passed.bytes > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.farewell.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
            if !this.framing.is_stopped() {
                return Poll::Ready(Ok(()));
            }
        }
        let farewell = this.farewell.get_or_insert_with(|| Farewell {
            time: Box::pin(sleep(limits::DRAIN_TIME)),
            bytes: 0,
        });
        let mut scratch = [0; 4096];
        while farewell.bytes < limits::DRAIN_BYTES {
            if farewell.time.as_mut().poll(context).is_ready() {
                break;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.io).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => farewell.bytes += buffer.filled().len(),
                // The client has seen the answer, or is gone.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing panics while it holds the lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
