//! The HTTP/2 connections of a lane, and the streams on them: each connection carries as many at
//! a time as its upstream allows (RFC 9113, section 5.1.2), and there are more connections when
//! that is not enough.
//!
//! h2 holds requests beyond the limit back by itself, for as long as it takes, and nobody can
//! tell. So streams are counted here, and a request is given to a connection that has room.

use std::time::Duration;

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    UpstreamError,
    http2::{Http2, Sender},
};
use crate::limits;

/// Streams before the upstream's SETTINGS are there: a request need not wait for them, but what
/// comes after it may already be too much.
const AT_FIRST: usize = 1;

/// How long a failure to connect answers for those who waited for the same connection.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// All connections of a lane.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: Vec<Connection>,
    made: u64,
    /// Somebody makes one.
    dialling: bool,
    /// Why the last one could not be made, and when that was.
    failed: Option<(UpstreamError, Instant)>,
    /// Nothing is kept any more.
    closed: bool,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    inner: Http2,
    /// Streams that are on it.
    used: usize,
    /// Leave to use it, while there are any.
    place: Option<OwnedSemaphorePermit>,
    /// When there were none any more.
    unused: Instant,
    /// Takes no new streams.
    retired: bool,
}

/// A stream to come on one of them.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) sender: Sender,
    /// Of the connection.
    pub(super) id: u64,
    /// Whether the connection was there before.
    pub(super) was_kept: bool,
}

/// What there is for who wants a stream.
#[derive(Debug)]
pub(super) enum Step {
    Taken(Taken),
    /// It has to make a connection, with this leave to use it.
    Dial(OwnedSemaphorePermit),
    Wait(Wait),
}

/// What has to come first.
#[derive(Debug)]
pub(super) enum Wait {
    /// Leave to use one connection more.
    Place,
    /// The end of a stream, or a connection that is being made; or this time.
    News(Option<Instant>),
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// All streams that are allowed on so many connections are in use.
    Streams(usize),
    /// The upstream allows no streams at all.
    Forbidden,
    /// No connection was made in time.
    Connection,
}

impl Connections {
    /// Looks for room. `place` gives leave to use one more connection.
    pub(super) fn step(
        &mut self,
        place: impl FnOnce() -> Option<OwnedSemaphorePermit>,
    ) -> Result<Step, UpstreamError> {
        self.retire();
        // The fullest one, so that those that are not needed any more fall idle and are closed.
        let in_use = self
            .all
            .iter_mut()
            .filter(|it| it.used > 0 && it.has_room());
        if let Some(connection) = in_use.max_by_key(|it| it.used) {
            return Ok(Step::Taken(connection.take()));
        }
        let idle = self
            .all
            .iter_mut()
            .filter(|it| it.used == 0 && it.has_room());
        if let Some(connection) = idle.max_by_key(|it| it.id) {
            let Some(place) = place() else {
                return Ok(Step::Wait(Wait::Place));
            };
            connection.place = Some(place);
            return Ok(Step::Taken(connection.take()));
        }
        let open = || self.all.iter().filter(|it| !it.retired);
        // Before it is known what one allows, another one is not called for. It is of no use where
        // none allows anything.
        let is_unknown = open().any(|it| it.inner.allowed().is_none());
        let forbidden = open().filter(|it| it.inner.allowed() == Some(0)).count();
        if self.dialling || is_unknown || forbidden > 0 && forbidden == open().count() {
            return Ok(Step::Wait(Wait::News(None)));
        }
        if let Some((error, at)) = &self.failed
            && at.elapsed() < SHARED_FAILURE
        {
            if open().next().is_none() {
                return Err(error.clone());
            }
            let again = at.checked_add(SHARED_FAILURE);
            return Ok(Step::Wait(Wait::News(again)));
        }
        let Some(place) = place() else {
            return Ok(Step::Wait(Wait::Place));
        };
        self.dialling = true;
        Ok(Step::Dial(place))
    }

    /// Whether those who wait may be served although nobody leaves.
    pub(super) fn may_have_room(&self) -> bool {
        let mut open = self.all.iter().filter(|it| !it.retired).peekable();
        let is_first = self.dialling && open.peek().is_none();
        is_first || open.any(|it| it.has_room() || it.inner.allowed().is_none())
    }

    /// Nobody makes one any more.
    pub(super) fn dialled(&mut self) {
        self.dialling = false;
    }

    /// None could be made. Whether there are others.
    pub(super) fn failed(&mut self, error: UpstreamError) -> bool {
        self.failed = Some((error, Instant::now()));
        self.all.iter().any(|it| !it.retired)
    }

    /// Takes the first stream of a new connection.
    pub(super) fn begin(&mut self, inner: Http2, place: OwnedSemaphorePermit) -> Taken {
        let mut connection = self.connection(inner);
        connection.place = Some(place);
        let taken = Taken {
            was_kept: false,
            ..connection.take()
        };
        self.all.push(connection);
        taken
    }

    /// Keeps a new connection for streams to come, unless there is room without it.
    pub(super) fn keep(&mut self, inner: Http2) {
        self.retire();
        if !self.closed && !self.all.iter().any(Connection::has_room) {
            let connection = self.connection(inner);
            self.all.push(connection);
        }
    }

    fn connection(&mut self, inner: Http2) -> Connection {
        self.failed = None;
        self.made += 1;
        Connection {
            id: self.made,
            inner,
            used: 0,
            place: None,
            unused: Instant::now(),
            retired: false,
        }
    }

    /// A stream has ended.
    pub(super) fn leave(&mut self, id: u64) {
        let Some(at) = self.all.iter().position(|it| it.id == id) else {
            return;
        };
        let connection = &mut self.all[at];
        connection.used -= 1;
        if connection.used > 0 {
            return;
        }
        connection.place = None;
        connection.unused = Instant::now();
        if connection.retired || self.closed {
            self.all.swap_remove(at);
        }
    }

    /// Has a connection take no more streams.
    pub(super) fn give_up(&mut self, id: u64) {
        for connection in &mut self.all {
            connection.retired |= connection.id == id;
        }
        self.drop_unused();
    }

    /// The same for all, and for those to come.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for connection in &mut self.all {
            connection.retired = true;
        }
        self.drop_unused();
    }

    /// Closes what is too old, and what was idle for too long unless it is the last. Whether
    /// anything is left.
    pub(super) fn sweep(&mut self) -> bool {
        self.retire();
        let mut open = self.all.iter().filter(|it| !it.retired).count();
        self.all.retain(|it| {
            let surplus = it.used == 0 && it.unused.elapsed() >= limits::IDLE_TIME && open > 1;
            open -= usize::from(surplus);
            !surplus
        });
        self.dialling || !self.all.is_empty()
    }

    /// Whether the upstream allows no stream on a connection.
    pub(super) fn is_forbidden(&self, id: u64) -> bool {
        let connection = self.all.iter().find(|it| it.id == id);
        connection.is_some_and(|it| it.inner.allowed() == Some(0))
    }

    /// Why nobody gets a stream.
    pub(super) fn shortage(&self) -> Shortage {
        let mut open = self.all.iter().filter(|it| !it.retired).peekable();
        if open.peek().is_none() {
            Shortage::Connection
        } else if open.all(|it| it.inner.allowed() == Some(0)) {
            Shortage::Forbidden
        } else {
            Shortage::Streams(self.all.iter().filter(|it| it.used > 0).count())
        }
    }

    fn retire(&mut self) {
        for connection in &mut self.all {
            connection.retired |=
                connection.inner.is_closed() || connection.inner.age() >= limits::CONNECTION_AGE;
        }
        self.drop_unused();
    }

    fn drop_unused(&mut self) {
        self.all.retain(|it| !it.retired || it.used > 0);
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        !self.retired && self.used < self.inner.allowed().unwrap_or(AT_FIRST)
    }

    fn take(&mut self) -> Taken {
        self.used += 1;
        Taken {
            sender: self.inner.sender.clone(),
            id: self.id,
            was_kept: true,
        }
    }
}
