//! A connection over HTTP/1.1, from one exchange to the next.

use std::{sync::Arc, time::Duration};

use hyper::client::conn::http1;
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Silence,
    body::{Progress, RequestBody},
    lane::Place,
};
use crate::limits;

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// For the starts of its answers: one timer for all of them.
    pub(super) silence: Silence,
    /// When it was made.
    since: Instant,
    /// Ends it although something is still to be written.
    abort: AbortHandle,
}

impl Http1 {
    pub(super) fn new(sender: http1::SendRequest<RequestBody>, abort: AbortHandle) -> Self {
        Self {
            sender,
            silence: Silence::new(limits::FIRST_BYTE),
            since: Instant::now(),
            abort,
        }
    }

    /// Ends it, whatever it is at.
    pub(super) fn abort(&self) {
        self.abort.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Keeps a connection for the next request once its answer has been read.
#[derive(Debug)]
pub(super) struct GiveBack {
    connection: Http1,
    request: Arc<Progress>,
    /// Leave to use the connection; ends with it.
    place: Place,
}

impl GiveBack {
    pub(super) fn new(connection: Http1, request: Arc<Progress>, place: Place) -> Self {
        Self {
            connection,
            request,
            place,
        }
    }

    /// The answer is complete.
    pub(super) fn done(mut self) {
        // An upstream that answered before it had read the request leaves a connection that
        // is of no more use, and that hyper would keep writing to for as long as the
        // upstream reads nothing.
        if !self.request.is_done() {
            self.connection.abort();
            return;
        }
        if self.connection.is_closed() {
            return;
        }
        if self.connection.sender.is_ready() {
            self.place.leave(self.connection);
            return;
        }
        tokio::spawn(async move {
            let ready = self.connection.sender.ready();
            if let Ok(Ok(())) = timeout(limits::IDLE_TIME, ready).await {
                self.place.leave(self.connection);
            }
        });
    }
}
