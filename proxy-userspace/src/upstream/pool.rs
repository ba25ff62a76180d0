//! Connections to upstreams that wait for their next request.
//!
//! A connection belongs to one Connector: another one's credential never travels on it. It
//! belongs to one workload as well, since it leaves from that one's network, and to the trust
//! that it was verified with.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use rustls::ClientConfig;
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Endpoint, HttpVersion, UpstreamError,
    body::{Progress, RequestBody},
    lane::Place,
};
use crate::{
    limits,
    state::{ConnectorId, Scheme},
    workload::{Egress, EgressId},
};

/// How long a failure to connect answers for those who waited for the same connection.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// When it was made.
    since: Instant,
    /// Ends it although something is still to be written.
    abort: AbortHandle,
}

type Http2 = http2::SendRequest<RequestBody>;

/// An HTTP/2 connection that others use as well.
pub(super) struct SharedHttp2 {
    pub(super) sender: Http2,
    /// When it was made, which also tells it from its successor.
    pub(super) since: Instant,
    /// Whether it was there before.
    pub(super) was_kept: bool,
}

impl Http1 {
    pub(super) fn new(sender: http1::SendRequest<RequestBody>, abort: AbortHandle) -> Self {
        Self {
            sender,
            since: Instant::now(),
            abort,
        }
    }

    /// Ends it, whatever it is at.
    pub(super) fn abort(&self) {
        self.abort.abort();
    }
}

/// What connections must have in common to be exchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) egress: EgressId,
    pub(super) connector: Option<ConnectorId>,
    trust: Trust,
    scheme: Scheme,
    host: String,
    port: u16,
    version: HttpVersion,
}

/// With what upstreams are verified: the same object, not an equal one.
#[derive(Clone, Debug)]
struct Trust(Option<Arc<ClientConfig>>);

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Trust {}

impl Hash for Trust {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl Trust {
    /// Belongs to nothing else for as long as this lives.
    fn address(&self) -> Option<*const ClientConfig> {
        self.0.as_ref().map(Arc::as_ptr)
    }
}

impl PoolKey {
    pub(super) fn new(egress: &Egress, endpoint: &Endpoint, version: HttpVersion) -> Self {
        Self {
            egress: egress.id().clone(),
            connector: endpoint.connector,
            trust: Trust(endpoint.tls.as_ref().map(|tls| Arc::clone(&tls.any))),
            scheme: endpoint.address.scheme,
            host: endpoint.address.host.clone(),
            port: endpoint.address.port,
            version,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<PoolKey, Vec<Idle>>>,
    /// Behind an asynchronous lock each, so that many streams at once make one connection.
    shared: Mutex<HashMap<PoolKey, Arc<tokio::sync::Mutex<Slot>>>>,
    versions: Mutex<HashMap<PoolKey, (HttpVersion, Instant)>>,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    /// When its last answer was complete.
    unused: Instant,
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

impl Pool {
    /// The connection that was used last, if one is still good.
    pub(super) fn take_http1(&self, key: &PoolKey) -> Option<Http1> {
        let mut idle = lock(&self.idle);
        let connections = idle.get_mut(key)?;
        while let Some(candidate) = connections.pop() {
            if candidate.is_good() {
                return Some(candidate.connection);
            }
        }
        idle.remove(key);
        None
    }

    pub(super) fn put_http1(&self, key: PoolKey, connection: Http1) {
        let mut idle = lock(&self.idle);
        // Behind the lock: whoever closes it looks for what is kept afterwards.
        if key.egress.is_closed() {
            return;
        }
        if idle.len() >= limits::POOLED_UPSTREAMS && !idle.contains_key(&key) {
            idle.retain(|_, connections| connections.iter().any(Idle::is_good));
        }
        let connections = idle.entry(key).or_default();
        connections.retain(Idle::is_good);
        if connections.len() < limits::IDLE_PER_UPSTREAM {
            connections.push(Idle {
                connection,
                unused: Instant::now(),
            });
        }
    }

    /// The shared connection, made by `dial` when there is none.
    pub(super) async fn http2(
        &self,
        key: &PoolKey,
        dial: impl AsyncFnOnce() -> Result<Http2, UpstreamError>,
    ) -> Result<SharedHttp2, UpstreamError> {
        let slot = self.slot(key);
        let mut slot = slot.lock().await;
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

    pub(super) fn put_http2(&self, key: PoolKey, sender: Http2) {
        let slot = Slot::Open {
            sender,
            since: Instant::now(),
        };
        let mut shared = lock(&self.shared);
        if !key.egress.is_closed() {
            shared.insert(key, Arc::new(slot.into()));
        }
    }

    /// Forgets everything whose key is not wanted; what is in use stays with its user.
    pub(super) fn retain(&self, wanted: impl Fn(&PoolKey) -> bool) {
        lock(&self.idle).retain(|key, _| wanted(key));
        lock(&self.shared).retain(|key, _| wanted(key));
        lock(&self.versions).retain(|key, _| wanted(key));
    }

    fn slot(&self, key: &PoolKey) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut shared = lock(&self.shared);
        if key.egress.is_closed() {
            return Arc::default();
        }
        if shared.len() >= limits::POOLED_UPSTREAMS && !shared.contains_key(key) {
            // One that is locked is being made.
            shared.retain(|_, slot| slot.try_lock().map_or(true, |slot| slot.is_good()));
        }
        Arc::clone(shared.entry(key.clone()).or_default())
    }

    /// Forgets a connection, but not the one that took its place meanwhile.
    pub(super) fn drop_http2(&self, key: &PoolKey, made: Instant) {
        let mut shared = lock(&self.shared);
        let same = shared.get(key).is_some_and(|slot| {
            slot.try_lock()
                .is_ok_and(|slot| matches!(&*slot, Slot::Open { since, .. } if *since == made))
        });
        if same {
            shared.remove(key);
        }
    }

    /// What an upstream was found to prefer, a short while ago.
    pub(super) fn known_version(
        &self,
        egress: &Egress,
        endpoint: &Endpoint,
    ) -> Option<HttpVersion> {
        let key = PoolKey::new(egress, endpoint, HttpVersion::Http2);
        let (version, learnt) = *lock(&self.versions).get(&key)?;
        (learnt.elapsed() < limits::CONNECTION_AGE).then_some(version)
    }

    pub(super) fn learn_version(&self, egress: &Egress, endpoint: &Endpoint, version: HttpVersion) {
        let key = PoolKey::new(egress, endpoint, HttpVersion::Http2);
        let mut versions = lock(&self.versions);
        if key.egress.is_closed() {
            return;
        }
        if versions.len() >= limits::POOLED_UPSTREAMS {
            versions.retain(|_, (_, learnt)| learnt.elapsed() < limits::CONNECTION_AGE);
        }
        versions.insert(key, (version, Instant::now()));
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
        !self.connection.sender.is_closed()
            && self.unused.elapsed() < limits::IDLE_TIME
            && self.connection.since.elapsed() < limits::CONNECTION_AGE
    }
}

/// Returns a connection to the pool once its answer has been read.
#[derive(Debug)]
pub(super) struct GiveBack {
    pool: Arc<Pool>,
    key: PoolKey,
    connection: Http1,
    request: Arc<Progress>,
    /// Leave to use the connection; ends with it.
    _place: Place,
}

impl GiveBack {
    pub(super) fn new(
        pool: Arc<Pool>,
        key: PoolKey,
        connection: Http1,
        request: Arc<Progress>,
        place: Place,
    ) -> Self {
        Self {
            pool,
            key,
            connection,
            request,
            _place: place,
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
        if self.connection.sender.is_closed() {
            return;
        }
        if self.connection.sender.is_ready() {
            self.pool.put_http1(self.key, self.connection);
            return;
        }
        tokio::spawn(async move {
            let ready = self.connection.sender.ready();
            if let Ok(Ok(())) = timeout(limits::IDLE_TIME, ready).await {
                self.pool.put_http1(self.key, self.connection);
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
