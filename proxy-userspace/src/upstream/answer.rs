//! Bodies of answers, which give their connection back.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    body::{Body, BodyError},
    pool::GiveBack,
};

/// An upstream's answer; gives its connection back when it has been read to the end.
pub(super) fn body(inner: Incoming, mut give_back: Option<GiveBack>) -> Body {
    if inner.is_end_stream()
        && let Some(give_back) = give_back.take()
    {
        give_back.done();
    }
    ResponseBody { inner, give_back }.boxed_unsync()
}

struct ResponseBody {
    inner: Incoming,
    give_back: Option<GiveBack>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => self.inner.is_end_stream(),
            Some(Err(_)) => {
                // Whatever is left on the connection is not to be trusted.
                self.give_back = None;
                false
            }
        };
        if ended && let Some(give_back) = self.give_back.take() {
            give_back.done();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
