//! How many exchanges an upstream is asked for at a time, and who waits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Endpoint, UpstreamError, pool::PoolKey};
use crate::limits::{self, Tuning};

/// The lanes to all upstreams. On HTTP/1.1 an exchange has a connection for itself, so a limit
/// to exchanges is one to connections.
#[derive(Debug)]
pub(super) struct Lanes {
    open: Mutex<HashMap<PoolKey, Arc<Lane>>>,
    width: usize,
    queue: usize,
}

#[derive(Debug)]
struct Lane {
    /// Whoever waits is served in the order of arrival.
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Leave to use one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Lanes {
    pub(super) fn new(tuning: &Tuning) -> Self {
        Self {
            open: Mutex::default(),
            width: tuning.upstream_connections,
            queue: tuning.upstream_queue,
        }
    }

    /// Waits for a place. Fails when too many wait already, or for too long.
    pub(super) async fn enter(
        &self,
        key: &PoolKey,
        endpoint: &Endpoint,
    ) -> Result<Place, UpstreamError> {
        let lane = self.lane(key);
        let places = Arc::clone(&lane.places);
        if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let Some(_waiting) = Waiting::new(&lane, self.queue) else {
            return Err(UpstreamError::busy(endpoint, self.width));
        };
        match timeout(limits::UPSTREAM_QUEUE_TIME, places.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::busy(endpoint, self.width)),
        }
    }

    /// Forgets lanes that are not wanted; who is on one stays there.
    pub(super) fn retain(&self, wanted: impl Fn(&PoolKey) -> bool) {
        self.lock().retain(|key, _| wanted(key));
    }

    fn lane(&self, key: &PoolKey) -> Arc<Lane> {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get(key) {
            return Arc::clone(lane);
        }
        if lanes.len() >= limits::POOLED_UPSTREAMS {
            lanes.retain(|_, lane| {
                Arc::strong_count(lane) > 1 || lane.places.available_permits() < self.width
            });
        }
        let lane = Arc::new(Lane {
            places: Arc::new(Semaphore::new(self.width)),
            waiting: AtomicUsize::new(0),
        });
        // A workload that is gone leaves nothing behind.
        if !key.egress.is_closed() {
            lanes.insert(key.clone(), Arc::clone(&lane));
        }
        lane
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Arc<Lane>>> {
        // Nothing panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Lane);

impl<'a> Waiting<'a> {
    fn new(lane: &'a Lane, most: usize) -> Option<Self> {
        let before = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(lane);
        (before < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
