//! Connections to upstreams that wait for their next request.
//!
//! A connection belongs to one Connector: another one's credential never travels on it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, timeout};

use super::{
    Endpoint, HttpVersion, UpstreamError,
    body::{Progress, RequestBody},
};
use crate::{
    limits,
    state::{ConnectorId, Scheme},
};

type Http1 = http1::SendRequest<RequestBody>;
type Http2 = http2::SendRequest<RequestBody>;

/// What connections must have in common to be exchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    connector: Option<ConnectorId>,
    scheme: Scheme,
    host: String,
    port: u16,
    version: HttpVersion,
}

impl PoolKey {
    pub(super) fn new(endpoint: &Endpoint, version: HttpVersion) -> Self {
        Self {
            connector: endpoint.connector,
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
    shared: Mutex<HashMap<PoolKey, Arc<Shared>>>,
    versions: Mutex<HashMap<PoolKey, (HttpVersion, Instant)>>,
}

#[derive(Debug)]
struct Idle {
    sender: Http1,
    /// When the connection was made.
    since: Instant,
    /// When its last answer was complete.
    unused: Instant,
}

type Shared = tokio::sync::Mutex<Option<(Http2, Instant)>>;

impl Pool {
    /// The connection that was used last, if one is still good.
    pub(super) fn take_http1(&self, key: &PoolKey) -> Option<(Http1, Instant)> {
        let mut idle = lock(&self.idle);
        let connections = idle.get_mut(key)?;
        while let Some(connection) = connections.pop() {
            if connection.is_good() {
                return Some((connection.sender, connection.since));
            }
        }
        None
    }

    pub(super) fn put_http1(&self, key: PoolKey, sender: Http1, since: Instant) {
        let mut idle = lock(&self.idle);
        let connections = idle.entry(key).or_default();
        connections.retain(Idle::is_good);
        if connections.len() < limits::IDLE_PER_UPSTREAM {
            connections.push(Idle {
                sender,
                since,
                unused: Instant::now(),
            });
        }
    }

    /// The shared connection, made by `dial` when there is none; and whether it was there.
    pub(super) async fn http2<F>(
        &self,
        key: &PoolKey,
        dial: impl FnOnce() -> F,
    ) -> Result<(Http2, bool), UpstreamError>
    where
        F: Future<Output = Result<Http2, UpstreamError>>,
    {
        let shared = Arc::clone(lock(&self.shared).entry(key.clone()).or_default());
        let mut connection = shared.lock().await;
        if let Some((sender, since)) = connection.as_ref()
            && !sender.is_closed()
            && since.elapsed() < limits::CONNECTION_AGE
        {
            return Ok((sender.clone(), true));
        }
        let sender = dial().await?;
        *connection = Some((sender.clone(), Instant::now()));
        Ok((sender, false))
    }

    pub(super) fn put_http2(&self, key: PoolKey, sender: Http2) {
        let connection = Shared::new(Some((sender, Instant::now())));
        lock(&self.shared).insert(key, Arc::new(connection));
    }

    pub(super) fn drop_http2(&self, key: &PoolKey) {
        lock(&self.shared).remove(key);
    }

    /// What an upstream was found to prefer, a short while ago.
    pub(super) fn known_version(&self, endpoint: &Endpoint) -> Option<HttpVersion> {
        let key = PoolKey::new(endpoint, HttpVersion::Http2);
        let (version, learnt) = *lock(&self.versions).get(&key)?;
        (learnt.elapsed() < limits::CONNECTION_AGE).then_some(version)
    }

    pub(super) fn learn_version(&self, endpoint: &Endpoint, version: HttpVersion) {
        let key = PoolKey::new(endpoint, HttpVersion::Http2);
        lock(&self.versions).insert(key, (version, Instant::now()));
    }
}

impl Idle {
    fn is_good(&self) -> bool {
        !self.sender.is_closed()
            && self.unused.elapsed() < limits::IDLE_TIME
            && self.since.elapsed() < limits::CONNECTION_AGE
    }
}

/// Returns a connection to the pool once its answer has been read.
#[derive(Debug)]
pub(super) struct GiveBack {
    pool: Arc<Pool>,
    key: PoolKey,
    sender: Http1,
    since: Instant,
    request: Arc<Progress>,
}

impl GiveBack {
    pub(super) fn new(
        pool: Arc<Pool>,
        key: PoolKey,
        sender: Http1,
        since: Instant,
        request: Arc<Progress>,
    ) -> Self {
        Self {
            pool,
            key,
            sender,
            since,
            request,
        }
    }

    /// The answer is complete. An upstream that answered before it had read the request
    /// leaves a connection that cannot be used again.
    pub(super) fn done(mut self) {
        if !self.request.is_done() || self.sender.is_closed() {
            return;
        }
        if self.sender.is_ready() {
            self.pool.put_http1(self.key, self.sender, self.since);
            return;
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(limits::IDLE_TIME, self.sender.ready()).await {
                self.pool.put_http1(self.key, self.sender, self.since);
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
