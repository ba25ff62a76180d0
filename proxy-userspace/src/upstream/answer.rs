//! Bodies of answers, which give their connection back.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    Silence,
    body::{Body, BodyError, await_frame},
    pool::GiveBack,
};

/// An upstream's answer; gives its connection back when it has been read to the end.
/// It is given up when nothing of it comes for `patience`.
pub(super) fn body(inner: Incoming, mut give_back: Option<GiveBack>, patience: Duration) -> Body {
    if inner.is_end_stream()
        && let Some(give_back) = give_back.take()
    {
        give_back.done();
    }
    ResponseBody {
        inner,
        give_back,
        silence: Silence::new(patience),
    }
    .boxed_unsync()
}

struct ResponseBody {
    inner: Incoming,
    give_back: Option<GiveBack>,
    silence: Silence,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(context);
        let frame = ready!(await_frame(&mut this.silence, context, frame));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => this.inner.is_end_stream(),
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
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
