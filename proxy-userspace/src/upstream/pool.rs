//! All lanes of a worker.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::sleep;

use super::{Endpoint, lane::Lane};
use crate::{
    limits::{self, Tuning},
    state::ConnectorId,
    workload::{Egress, EgressId},
};

/// Everything that is kept for upstreams, and who looks after it.
#[derive(Debug)]
pub(super) struct Pool {
    lanes: Mutex<Lanes>,
    tuning: Tuning,
    /// Whether somebody closes what is too old.
    swept: AtomicBool,
}

#[derive(Debug, Default)]
struct Lanes {
    /// By what can be looked up without making anything; few lanes have the same.
    by_key: HashMap<Key, Vec<Arc<Lane>>>,
    count: usize,
}

/// Of all that tells lanes apart, what is short.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    egress: EgressId,
    connector: Option<ConnectorId>,
    port: u16,
}

impl Pool {
    pub(super) fn new(tuning: Tuning) -> Arc<Self> {
        Arc::new(Self {
            lanes: Mutex::default(),
            tuning,
            swept: AtomicBool::new(false),
        })
    }

    /// The lane from a workload to an endpoint.
    pub(super) fn lane(self: &Arc<Self>, egress: &Egress, endpoint: &Endpoint) -> Arc<Lane> {
        let key = Key {
            egress: egress.id().clone(),
            connector: endpoint.connector,
            port: endpoint.address.port,
        };
        let mut lanes = self.lock();
        let found = lanes.by_key.get(&key);
        if let Some(lane) = found.and_then(|all| all.iter().find(|it| it.leads_to(endpoint))) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(Lane::new(endpoint, &self.tuning));
        // A workload that is gone leaves nothing behind. Behind the lock: whoever closes it
        // looks for what is kept afterwards.
        if key.egress.is_closed() {
            lane.close();
            return lane;
        }
        if lanes.count >= limits::POOLED_UPSTREAMS {
            lanes.sweep();
        }
        lanes.by_key.entry(key).or_default().push(Arc::clone(&lane));
        lanes.count += 1;
        drop(lanes);
        self.look_after();
        lane
    }

    /// Closes all that is kept for a workload; what is in use stays with its user.
    pub(super) fn forget(&self, egress: &EgressId) {
        self.lock().close(|key| key.egress == *egress);
    }

    /// The same for Connectors.
    pub(super) fn forget_connectors(&self, gone: &BTreeSet<ConnectorId>) {
        let is_gone = |key: &Key| key.connector.is_some_and(|id| gone.contains(&id));
        self.lock().close(is_gone);
    }

    /// Has connections closed when they are too old, although nobody asks for one.
    fn look_after(self: &Arc<Self>) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(limits::POOL_SWEEP).await;
                let Some(pool) = Weak::upgrade(&pool) else {
                    return;
                };
                let mut lanes = pool.lock();
                lanes.sweep();
                if lanes.count == 0 {
                    pool.swept.store(false, Ordering::Relaxed);
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // Nothing panics while it holds the lock.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// Closes lanes that are not wanted.
    fn close(&mut self, unwanted: impl Fn(&Key) -> bool) {
        self.by_key.retain(|key, lanes| {
            if !unwanted(key) {
                return true;
            }
            for lane in lanes.iter() {
                lane.close();
            }
            self.count -= lanes.len();
            false
        });
    }

    /// Closes connections that are too old, and lanes without any that nobody is on.
    fn sweep(&mut self) {
        self.by_key.retain(|_, lanes| {
            let before = lanes.len();
            lanes.retain(|lane| lane.sweep() || Arc::strong_count(lane) > 1);
            self.count -= before - lanes.len();
            !lanes.is_empty()
        });
    }
}
