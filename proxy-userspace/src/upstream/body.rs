//! Bodies, streamed in both directions, and how far those of requests have come.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

/// A body broke off: its sender, or the connection that it came on, went away.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(#[from] hyper::Error);

/// The body of any request or answer that passes through.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is being received.
pub fn incoming(body: Incoming) -> Body {
    body.map_err(BodyError).boxed_unsync()
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
    done: AtomicBool,
}

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the upstream took the body to its end.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// A request's body that records its progress.
#[derive(Debug)]
pub(super) struct RequestBody {
    inner: Body,
    progress: Arc<Progress>,
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
        };
        (body, progress)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let n = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            self.progress.bytes.fetch_add(n, Ordering::Relaxed);
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
