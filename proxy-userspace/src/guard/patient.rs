//! Clients that do not take what they asked for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::Silence;

/// A client's connection that fails when nothing can be written to it for too long: an answer
/// that nobody reads would be kept in memory, and the upstream's connection with it.
#[derive(Debug)]
pub struct Patient<IO> {
    io: IO,
    /// `None`: it may take as long as it likes.
    silence: Option<Silence>,
}

impl<IO> Patient<IO> {
    /// Allows a client to read nothing for `limit`.
    pub fn new(io: IO, limit: Duration) -> Self {
        Self {
            io,
            silence: Some(Silence::new(limit)),
        }
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    /// Waits without an end from now on.
    pub(super) fn relent(&mut self) {
        self.silence = None;
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(silence) = &mut self.silence else {
            return written;
        };
        if written.is_ready() {
            silence.broken();
        } else if silence.poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read its answer",
            )));
        }
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Patient<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Patient<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.judge(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(context);
        this.judge(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(context);
        this.judge(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up() {
        let (_client, server) = duplex(10);
        let mut patient = Patient::new(server, LIMIT);
        let start = Instant::now();
        let error = patient.write_all(&[0; 11]).await.expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_not() {
        let (mut client, server) = duplex(10);
        let mut patient = Patient::new(server, LIMIT);
        let reader = tokio::spawn(async move {
            let mut bytes = 0;
            while bytes < 50 {
                sleep(LIMIT * 9 / 10).await;
                bytes += client.read(&mut [0; 10]).await.expect("bytes");
            }
        });
        patient.write_all(&[0; 50]).await.expect("somebody reads");
        reader.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn who_changed_the_protocol_may_take_its_time() {
        let (mut client, server) = duplex(10);
        let mut patient = Patient::new(server, LIMIT);
        patient.relent();
        let reader = tokio::spawn(async move {
            sleep(LIMIT * 10).await;
            client.read_exact(&mut [0; 11]).await.map(drop)
        });
        patient.write_all(&[0; 11]).await.expect("somebody reads");
        reader.await.expect("no panic").expect("bytes");
    }
}
