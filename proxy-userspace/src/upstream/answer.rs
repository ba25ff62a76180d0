//! Bodies of answers, which give their connection back.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    Silence,
    body::{Body, BodyError, await_frame},
    http1::GiveBack,
    lane::StreamPlace,
};

/// An upstream's answer; gives its connection back when it has been read to the end.
/// It is given up when nothing of it comes for `patience`.
pub(super) fn body(inner: Incoming, mut give_back: Option<GiveBack>, patience: Duration) -> Body {
    if inner.is_end_stream()
        && let Some(give_back) = give_back.take()
    {
        give_back.done();
    }
    Answer {
        body: inner,
        give_back,
        silence: Silence::new(patience),
    }
    .boxed_unsync()
}

/// The same on HTTP/2, where a client can leave one stream unread while the connection is as
/// alive as ever, and nobody asks for the rest of the body: that is noticed here. Leaves its place
/// among the streams at its end.
pub(super) fn watched_body(inner: Incoming, place: Arc<StreamPlace>, patience: Duration) -> Body {
    if inner.is_end_stream() {
        return body(inner, None, patience);
    }
    let source = Arc::new(Mutex::new(Source::new(inner, place)));
    let watch = tokio::spawn(watch(Arc::clone(&source), patience));
    Watched {
        source,
        silence: Silence::new(patience),
        _watch: Watch(watch.abort_handle()),
    }
    .boxed_unsync()
}

/// Lets go of an answer that nobody has taken anything of for `patience`; at the latest after
/// twice that time.
async fn watch(source: Arc<Mutex<Source>>, patience: Duration) {
    loop {
        sleep(patience).await;
        let mut source = lock(&source);
        if source.taken.is_some_and(|at| at.elapsed() >= patience) {
            source.body = None;
            source.place = None;
            return;
        }
    }
}

/// An answer on a connection of its own.
struct Answer {
    body: Incoming,
    give_back: Option<GiveBack>,
    silence: Silence,
}

/// One of the answers on a shared connection.
struct Watched {
    source: Arc<Mutex<Source>>,
    silence: Silence,
    _watch: Watch,
}

/// Somebody who looks whether an answer is read; not beyond its end.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where an answer comes from.
struct Source {
    /// `None` once it was let go.
    body: Option<Incoming>,
    /// Until its end.
    place: Option<Arc<StreamPlace>>,
    /// When the client's side took a frame; `None` while it waits for one.
    taken: Option<Instant>,
}

impl Source {
    fn new(body: Incoming, place: Arc<StreamPlace>) -> Self {
        Self {
            body: Some(body),
            place: Some(place),
            taken: None,
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        let frame = ready!(await_frame(&mut this.silence, context, frame));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => this.body.is_end_stream(),
            Some(Err(_)) => {
                // Whatever is left on the connection is not to be trusted.
                this.give_back = None;
                false
            }
        };
        if ended && let Some(give_back) = this.give_back.take() {
            give_back.done();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut source = lock(&this.source);
        source.taken = None;
        let Some(body) = &mut source.body else {
            return Poll::Ready(Some(Err(BodyError::Silent(this.silence.limit()))));
        };
        let frame = Pin::new(&mut *body).poll_frame(context);
        let frame = ready!(await_frame(&mut this.silence, context, frame));
        if frame.is_none() || body.is_end_stream() {
            source.place = None;
        }
        source.taken = Some(Instant::now());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = lock(&self.source);
        source.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let source = lock(&self.source);
        source
            .body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    // Nothing panics while it holds the lock.
    source.lock().unwrap_or_else(PoisonError::into_inner)
}
