//! The body of an answer: whole, or one line for each event of a watch.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until};

use crate::handle::Handle;
use crate::watch::Watch;

/// How many lines may wait for a slow client.
const WAITING_LINES: usize = 64;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines) => lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Lines(_) => http_body::SizeHint::default(),
        }
    }
}

/// Runs a watch until its time is over or the client is gone.
pub(super) fn serve(handle: &Handle, watch: Watch, first: Vec<Value>, timeout: Duration, pause: Duration) -> Answer {
    let (lines, answer) = mpsc::channel(WAITING_LINES);
    tokio::spawn(run(handle.clone(), watch, first, timeout, pause, lines));
    Answer::Lines(answer)
}

async fn run(handle: Handle, mut watch: Watch, first: Vec<Value>, timeout: Duration, pause: Duration, lines: mpsc::Sender<Bytes>) {
    let mut changes = handle.cluster.subscribe();
    let mut epoch = handle.epoch.subscribe();
    let begun = epoch.borrow_and_update().watches;
    let end = Instant::now() + timeout;
    let mut bookmarks = interval_at(Instant::now() + pause, pause);
    let mut pending = first;
    loop {
        for line in pending.drain(..) {
            if send(&lines, &line).await.is_err() {
                return;
            }
        }
        let next = watch.next(&Arc::clone(&handle.cluster).read());
        match next {
            Ok(more) if !more.is_empty() => {
                pending = more;
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                drop(send(&lines, &error).await);
                return;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = epoch.changed() => {
                let now = epoch.borrow_and_update().watches;
                if changed.is_err() || now != begun { return }
            }
            _ = bookmarks.tick(), if watch.wants_bookmarks() => pending.push(watch.bookmark(false)),
            () = sleep_until(end) => {
                if watch.wants_bookmarks() {
                    drop(send(&lines, &watch.bookmark(false)).await);
                }
                return;
            }
            () = lines.closed() => return,
        }
    }
}

async fn send(lines: &mpsc::Sender<Bytes>, line: &Value) -> Result<(), mpsc::error::SendError<Bytes>> {
    let mut text = line.to_string();
    text.push('\n');
    lines.send(Bytes::from(text)).await
}
