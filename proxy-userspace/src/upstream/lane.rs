//! What a worker has for one upstream on behalf of one workload: how many exchanges there may
//! be at a time, who waits, and the connections that wait for their next request.
//!
//! A connection belongs to one Connector: another one's credential never travels on it. It
//! belongs to one workload as well, since it leaves from that one's network, and to the trust
//! that it was verified with.

use std::{
    ops::ControlFlow,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ClientConfig;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Endpoint, HttpVersion, UpstreamError,
    http1::Http1,
    http2::{Http2, Sender},
    streams::{Connections, Shortage, Step, Taken, Wait},
};
use crate::{
    limits::{self, Tuning},
    state::Scheme,
};

/// One upstream of one workload.
#[derive(Debug)]
pub(super) struct Lane {
    to: To,
    /// One for each connection in use. On HTTP/1.1 an exchange has a connection for itself, so a
    /// limit to exchanges is one to connections. Whoever waits is served in the order of arrival.
    places: Arc<Semaphore>,
    width: usize,
    waiting: AtomicUsize,
    queue: usize,
    idle: Mutex<Kept>,
    http2: Mutex<Connections>,
    /// Held by the first of those who wait for a stream; the others wait for it in turn.
    front: tokio::sync::Mutex<()>,
    /// Tells that one that there may be room.
    news: Arc<Notify>,
    /// What it was found to prefer, and when.
    prefers: Mutex<Option<(HttpVersion, Instant)>>,
}

/// What endpoints must have in common to share connections, apart from what lanes are found by.
#[derive(Debug)]
struct To {
    scheme: Scheme,
    host: String,
    /// With what it is verified: the same object, not an equal one.
    trust: Option<Arc<ClientConfig>>,
}

/// Connections over HTTP/1.1 that wait for their next request.
#[derive(Debug, Default)]
struct Kept {
    /// The one that was used last is the last one.
    connections: Vec<Idle>,
    /// Nothing is kept any more.
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    /// When its last answer was complete.
    unused: Instant,
}

/// A stream on an HTTP/2 connection, for one request.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: Sender,
    /// Whether its connection was there before.
    pub(super) was_kept: bool,
    /// Counts it until both the request and the answer are over.
    pub(super) place: Arc<StreamPlace>,
}

/// A place among the streams of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    lane: Arc<Lane>,
    connection: u64,
}

/// Somebody who makes a connection that others wait for.
struct Dialling {
    lane: Arc<Lane>,
}

/// How somebody comes to a stream.
enum Way {
    Taken(Taken),
    Dial(Dialling, OwnedSemaphorePermit),
}

/// Leave to use one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lane: Arc<Lane>,
    _permit: OwnedSemaphorePermit,
}

impl Lane {
    pub(super) fn new(endpoint: &Endpoint, tuning: &Tuning) -> Self {
        Self {
            to: To {
                scheme: endpoint.address.scheme,
                host: endpoint.address.host.clone(),
                trust: endpoint.tls.as_ref().map(|tls| Arc::clone(&tls.any)),
            },
            places: Arc::new(Semaphore::new(tuning.upstream_connections)),
            width: tuning.upstream_connections,
            waiting: AtomicUsize::new(0),
            queue: tuning.upstream_queue,
            idle: Mutex::default(),
            http2: Mutex::default(),
            front: tokio::sync::Mutex::default(),
            news: Arc::default(),
            prefers: Mutex::default(),
        }
    }

    /// Whether this is the lane to an endpoint of the same Connector and port.
    pub(super) fn leads_to(&self, endpoint: &Endpoint) -> bool {
        let trust = endpoint.tls.as_ref().map(|tls| Arc::as_ptr(&tls.any));
        self.to.trust.as_ref().map(Arc::as_ptr) == trust
            && self.to.scheme == endpoint.address.scheme
            && self.to.host == endpoint.address.host
    }

    /// Waits for a place. Fails when too many wait already, or for too long.
    pub(super) async fn enter(
        self: &Arc<Self>,
        endpoint: &Endpoint,
    ) -> Result<Place, UpstreamError> {
        let place = |permit| Place {
            lane: Arc::clone(self),
            _permit: permit,
        };
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place(permit));
        }
        if self.waiting.load(Ordering::Relaxed) >= self.queue {
            return Err(UpstreamError::busy(endpoint, self.width));
        }
        let _waiting = Waiting::new(self);
        let permit = Arc::clone(&self.places).acquire_owned();
        match timeout(limits::UPSTREAM_QUEUE_TIME, permit).await {
            Ok(Ok(permit)) => Ok(place(permit)),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::busy(endpoint, self.width)),
        }
    }

    /// A stream on one of the connections over HTTP/2. When none of them has room, and there may
    /// be one more, `dial` makes it; else waits in line.
    pub(super) async fn stream<F>(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        dial: impl Fn() -> F,
    ) -> Result<Stream, UpstreamError>
    where
        F: Future<Output = Result<Http2, UpstreamError>>,
    {
        let mut way = match self.way_at_once(endpoint)? {
            Some(way) => way,
            // Rare, and large: kept out of the futures of requests.
            None => Box::pin(self.way_in_line(endpoint)).await?,
        };
        let since = Instant::now();
        loop {
            let (dialling, place) = match way {
                Way::Taken(taken) => return Ok(self.on(taken)),
                Way::Dial(dialling, place) => (dialling, place),
            };
            let error = match dial().await {
                Ok(connection) => {
                    let taken = lock(&self.http2).begin(connection, place);
                    // Those who wait are told of what there is now.
                    drop(dialling);
                    return Ok(self.on(taken));
                }
                Err(error) => error,
            };
            // Those that are there already have to do, then.
            let others = lock(&self.http2).failed(error.clone());
            drop(place);
            drop(dialling);
            if !others || since.elapsed() >= limits::UPSTREAM_QUEUE_TIME {
                return Err(error);
            }
            way = Box::pin(self.way_in_line(endpoint)).await?;
        }
    }

    fn on(self: &Arc<Self>, taken: Taken) -> Stream {
        Stream {
            sender: taken.sender,
            was_kept: taken.was_kept,
            place: Arc::new(StreamPlace {
                lane: Arc::clone(self),
                connection: taken.id,
            }),
        }
    }

    /// Unless others wait, or there is nothing but to wait.
    fn way_at_once(self: &Arc<Self>, endpoint: &Endpoint) -> Result<Option<Way>, UpstreamError> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting == 0
            && let ControlFlow::Break(way) = self.look(None)?
        {
            return Ok(Some(way));
        }
        if waiting >= self.queue && !lock(&self.http2).may_have_room() {
            return Err(self.no_stream(endpoint));
        }
        Ok(None)
    }

    async fn way_in_line(self: &Arc<Self>, endpoint: &Endpoint) -> Result<Way, UpstreamError> {
        let _waiting = Waiting::new(self);
        let way = async {
            let _front = self.front.lock().await;
            let mut place = None;
            // Kept as long as a place is what is waited for, or the turn would be lost.
            let mut turn = pin!(Arc::clone(&self.places).acquire_owned());
            loop {
                let (awaits_place, until) = match self.look(place.take())? {
                    ControlFlow::Break(way) => return Ok(way),
                    ControlFlow::Continue(Wait::Place) => (true, None),
                    ControlFlow::Continue(Wait::News(until)) => (false, until),
                };
                if !awaits_place {
                    turn.set(Arc::clone(&self.places).acquire_owned());
                }
                tokio::select! {
                    () = self.news.notified() => {}
                    permit = turn.as_mut(), if awaits_place => {
                        place = permit.ok();
                        turn.set(Arc::clone(&self.places).acquire_owned());
                    }
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                }
            }
        };
        match timeout(limits::UPSTREAM_QUEUE_TIME, way).await {
            Ok(way) => way,
            Err(_) => Err(self.no_stream(endpoint)),
        }
    }

    /// Takes a stream, or the task to make a connection, if there is either.
    fn look(
        self: &Arc<Self>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<ControlFlow<Way, Wait>, UpstreamError> {
        let place = || place.or_else(|| Arc::clone(&self.places).try_acquire_owned().ok());
        Ok(match lock(&self.http2).step(place)? {
            Step::Taken(taken) => ControlFlow::Break(Way::Taken(taken)),
            Step::Dial(place) => {
                let dialling = Dialling {
                    lane: Arc::clone(self),
                };
                ControlFlow::Break(Way::Dial(dialling, place))
            }
            Step::Wait(wait) => ControlFlow::Continue(wait),
        })
    }

    fn no_stream(&self, endpoint: &Endpoint) -> UpstreamError {
        match lock(&self.http2).shortage() {
            // Others have all the connections that there may be.
            Shortage::Streams(0) => UpstreamError::busy(endpoint, self.width),
            shortage => UpstreamError::no_stream(endpoint, shortage),
        }
    }

    /// Whom to tell what becomes of a connection over HTTP/2.
    pub(super) fn news(&self) -> &Arc<Notify> {
        &self.news
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, connection: Http1) {
        let idle = Idle {
            connection,
            unused: Instant::now(),
        };
        let mut kept = lock(&self.idle);
        if !kept.closed && idle.is_good() && kept.connections.len() < self.width {
            kept.connections.push(idle);
        }
    }

    /// Shares a connection from now on.
    pub(super) fn share(&self, connection: Http2) {
        lock(&self.http2).keep(connection);
        self.news.notify_one();
    }

    /// What the upstream was found to prefer, a short while ago.
    pub(super) fn known_version(&self) -> Option<HttpVersion> {
        let (version, learnt) = (*lock(&self.prefers))?;
        (learnt.elapsed() < limits::CONNECTION_AGE).then_some(version)
    }

    pub(super) fn learn_version(&self, version: HttpVersion) {
        *lock(&self.prefers) = Some((version, Instant::now()));
    }

    /// Keeps nothing from now on; what is in use stays with its user.
    pub(super) fn close(&self) {
        let mut kept = lock(&self.idle);
        kept.closed = true;
        kept.connections.clear();
        drop(kept);
        // One that is being made is found by nobody who looks for this lane later.
        lock(&self.http2).close();
        self.news.notify_one();
    }

    /// Closes what is too old or was idle for too long. Whether anything worth keeping is left.
    pub(super) fn sweep(&self) -> bool {
        let mut kept = lock(&self.idle);
        kept.connections.retain(Idle::is_good);
        let idle = !kept.connections.is_empty();
        drop(kept);
        let shared = lock(&self.http2).sweep();
        idle || shared || self.known_version().is_some()
    }
}

impl Place {
    /// The connection that was used last, if one is still good.
    pub(super) fn take(&self) -> Option<Http1> {
        let mut kept = lock(&self.lane.idle);
        while let Some(candidate) = kept.connections.pop() {
            if candidate.is_good() {
                return Some(candidate.connection);
            }
        }
        None
    }

    /// Keeps the connection for the next request, and leaves.
    pub(super) fn leave(self, connection: Http1) {
        self.lane.keep(connection);
    }
}

impl StreamPlace {
    /// Has its connection take no more streams.
    pub(super) fn give_up(&self) {
        lock(&self.lane.http2).give_up(self.connection);
    }

    /// Whether the upstream allows no stream on it.
    pub(super) fn is_forbidden(&self) -> bool {
        lock(&self.lane.http2).is_forbidden(self.connection)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        lock(&self.lane.http2).leave(self.connection);
        self.lane.news.notify_one();
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        lock(&self.lane.http2).dialled();
        self.lane.news.notify_one();
    }
}

impl Idle {
    fn is_good(&self) -> bool {
        !self.connection.is_closed()
            && self.unused.elapsed() < limits::IDLE_TIME
            && self.connection.age() < limits::CONNECTION_AGE
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Lane);

impl<'a> Waiting<'a> {
    fn new(lane: &'a Lane) -> Self {
        lane.waiting.fetch_add(1, Ordering::Relaxed);
        Self(lane)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
