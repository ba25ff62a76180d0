//! Bodies, streamed in both directions, and how far those of requests have come.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use super::{Silence, lane::StreamPlace};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its sender, or the connection that it came on, went away.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// Nothing of it came for so long.
    #[error("nothing of it came for {} s", .0.as_secs())]
    Silent(Duration),
}

/// The body of any request or answer that passes through.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is being received; given up when nothing of it comes for `patience`.
pub fn incoming(body: Incoming, patience: Duration) -> Body {
    Impatient {
        inner: body,
        silence: Silence::new(patience),
    }
    .boxed_unsync()
}

/// A body that is given up after silence.
struct Impatient {
    inner: Incoming,
    silence: Silence,
}

impl HttpBody for Impatient {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        await_frame(&mut self.silence, context, frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Makes an error of a silence that is too long.
pub(super) fn await_frame(
    silence: &mut Silence,
    context: &mut Context<'_>,
    frame: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match frame {
        Poll::Ready(frame) => {
            silence.broken();
            Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
        }
        Poll::Pending => {
            ready!(silence.poll(context));
            Poll::Ready(Some(Err(BodyError::Silent(silence.limit()))))
        }
    }
}

/// A body without a byte.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// How far a request's body has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    /// How often the upstream's side asked for more.
    asked: AtomicU64,
    /// It asked, and the client has not sent it yet.
    awaits_client: AtomicBool,
    done: AtomicBool,
    fault: OnceLock<Fault>,
}

/// Why the client's part of an exchange failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Its body broke off, or is not framed as it should be.
    Broken,
    /// It sent nothing for so long.
    Silent(Duration),
}

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often more of the body was asked for, if the next of it is there to be taken; `None`
    /// while that is the client's to send, and after the end.
    pub(super) fn untaken(&self) -> Option<u64> {
        let is_there = !self.is_done() && !self.awaits_client.load(Ordering::Relaxed);
        is_there.then(|| self.asked.load(Ordering::Relaxed))
    }

    /// Whether the upstream took the body to its end.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Why the body will never come to its end.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }
}

/// A request's body that records its progress.
#[derive(Debug)]
pub(super) struct RequestBody {
    inner: Body,
    progress: Arc<Progress>,
    /// On HTTP/2 its stream is in use until it is dropped.
    stream: Option<Arc<StreamPlace>>,
}

impl RequestBody {
    pub(super) fn new(inner: Body) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        progress
            .done
            .store(inner.is_end_stream(), Ordering::Relaxed);
        let body = Self {
            inner,
            progress: Arc::clone(&progress),
            stream: None,
        };
        (body, progress)
    }

    /// Goes out on a stream from now on, or on none.
    pub(super) fn set_stream(&mut self, stream: Option<Arc<StreamPlace>>) {
        self.stream = stream;
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        self.progress.asked.fetch_add(1, Ordering::Relaxed);
        self.progress
            .awaits_client
            .store(frame.is_pending(), Ordering::Relaxed);
        let frame = ready!(frame);
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let n = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            self.progress.bytes.fetch_add(n, Ordering::Relaxed);
        }
        if let Some(Err(error)) = &frame {
            let fault = match error {
                BodyError::Broken(_) => Fault::Broken,
                BodyError::Silent(time) => Fault::Silent(*time),
            };
            let _ = self.progress.fault.set(fault);
        }
        if frame.is_none() || self.inner.is_end_stream() {
            self.progress.done.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
