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

/// An HTTP/1.1 connection. One that is dropped within an exchange ends, whatever it is at: an
/// upstream that reads nothing would keep hyper writing to it for ever.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// For the starts of its answers: one timer for all of them.
    pub(super) silence: Silence,
    /// When it was made.
    since: Instant,
    /// Ends it although something is still to be written.
    abort: AbortHandle,
    /// Whether an exchange is under way.
    busy: bool,
}

impl Http1 {
    pub(super) fn new(sender: http1::SendRequest<RequestBody>, abort: AbortHandle) -> Self {
        Self {
            sender,
            silence: Silence::new(limits::FIRST_BYTE),
            since: Instant::now(),
            abort,
            busy: false,
        }
    }

    /// An exchange begins.
    pub(super) fn begin(&mut self) {
        self.busy = true;
    }

    /// It came to its end.
    pub(super) fn end(&mut self) {
        self.busy = false;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if self.busy {
            self.abort.abort();
        }
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
        // An upstream that answered before it had read the request leaves a connection that is
        // of no more use.
        if !self.request.is_done() || self.connection.is_closed() {
            return;
        }
        if self.connection.sender.is_ready() {
            self.keep();
            return;
        }
        tokio::spawn(async move {
            let ready = self.connection.sender.ready();
            if let Ok(Ok(())) = timeout(limits::IDLE_TIME, ready).await {
                self.keep();
            }
        });
    }

    fn keep(mut self) {
        self.connection.end();
        self.place.leave(self.connection);
    }
}
