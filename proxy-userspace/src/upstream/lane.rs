//! What a worker has for one upstream on behalf of one workload: how many exchanges there may
//! be at a time, who waits, and the connections that wait for their next request.
//!
//! A connection belongs to one Connector: another one's credential never travels on it. It
//! belongs to one workload as well, since it leaves from that one's network, and to the trust
//! that it was verified with.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2;
use rustls::ClientConfig;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{Endpoint, HttpVersion, UpstreamError, body::RequestBody, http1::Http1};
use crate::{
    limits::{self, Tuning},
    state::Scheme,
};

/// How long a failure to connect answers for those who waited for the same connection.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// One upstream of one workload.
#[derive(Debug)]
pub(super) struct Lane {
    to: To,
    /// On HTTP/1.1 an exchange has a connection for itself, so a limit to exchanges is one to
    /// connections. Whoever waits is served in the order of arrival.
    places: Arc<Semaphore>,
    width: usize,
    waiting: AtomicUsize,
    queue: usize,
    idle: Mutex<Kept>,
    /// Behind an asynchronous lock, so that many streams at once make one connection.
    shared: tokio::sync::Mutex<Slot>,
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

pub(super) type Http2 = http2::SendRequest<RequestBody>;

/// An HTTP/2 connection that others use as well.
pub(super) struct SharedHttp2 {
    pub(super) sender: Http2,
    /// When it was made, which also tells it from its successor.
    pub(super) since: Instant,
    /// Whether it was there before.
    pub(super) was_kept: bool,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Open {
        sender: Http2,
        since: Instant,
    },
    Failed {
        error: UpstreamError,
        at: Instant,
    },
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
            shared: tokio::sync::Mutex::default(),
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
        let Some(_waiting) = Waiting::new(self) else {
            return Err(UpstreamError::busy(endpoint, self.width));
        };
        let permit = Arc::clone(&self.places).acquire_owned();
        match timeout(limits::UPSTREAM_QUEUE_TIME, permit).await {
            Ok(Ok(permit)) => Ok(place(permit)),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::busy(endpoint, self.width)),
        }
    }

    /// The shared connection, made by `dial` when there is none.
    pub(super) async fn http2(
        &self,
        dial: impl AsyncFnOnce() -> Result<Http2, UpstreamError>,
    ) -> Result<SharedHttp2, UpstreamError> {
        let mut slot = self.shared.lock().await;
        match &*slot {
            Slot::Open { sender, since } if slot.is_good() => {
                return Ok(SharedHttp2 {
                    sender: sender.clone(),
                    since: *since,
                    was_kept: true,
                });
            }
            Slot::Failed { error, at } if at.elapsed() < SHARED_FAILURE => {
                return Err(error.clone());
            }
            _ => {}
        }
        let dialled = dial().await;
        let since = Instant::now();
        match dialled {
            Ok(sender) => {
                *slot = Slot::Open {
                    sender: sender.clone(),
                    since,
                };
                Ok(SharedHttp2 {
                    sender,
                    since,
                    was_kept: false,
                })
            }
            Err(error) => {
                *slot = Slot::Failed {
                    error: error.clone(),
                    at: since,
                };
                Err(error)
            }
        }
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

    /// Shares a connection from now on, unless somebody is about to make one.
    pub(super) fn share(&self, sender: Http2) {
        if let Ok(mut slot) = self.shared.try_lock() {
            *slot = Slot::Open {
                sender,
                since: Instant::now(),
            };
        }
    }

    /// Forgets a shared connection, but not the one that took its place meanwhile.
    pub(super) fn drop_http2(&self, made: Instant) {
        if let Ok(mut slot) = self.shared.try_lock()
            && matches!(&*slot, Slot::Open { since, .. } if *since == made)
        {
            *slot = Slot::Empty;
        }
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
        if let Ok(mut slot) = self.shared.try_lock() {
            *slot = Slot::Empty;
        }
    }

    /// Closes what is too old or was idle for too long. Whether anything worth keeping is left.
    pub(super) fn sweep(&self) -> bool {
        let mut kept = lock(&self.idle);
        kept.connections.retain(Idle::is_good);
        let idle = !kept.connections.is_empty();
        drop(kept);
        let shared = self.shared.try_lock().map_or(true, |mut slot| {
            let good = slot.is_good();
            if matches!(*slot, Slot::Open { .. }) && !good {
                *slot = Slot::Empty;
            }
            good
        });
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

impl Slot {
    /// Whether it holds a connection that can still be used.
    fn is_good(&self) -> bool {
        match self {
            Self::Open { sender, since } => {
                !sender.is_closed() && since.elapsed() < limits::CONNECTION_AGE
            }
            Self::Empty | Self::Failed { .. } => false,
        }
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
    fn new(lane: &'a Lane) -> Option<Self> {
        let before = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(lane);
        (before < lane.queue).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
