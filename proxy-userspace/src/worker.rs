//! Threads that serve connections: each on a runtime of its own, with its own upstream
//! connections, so that a connection stays on one core from its first byte to its last.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::sync::mpsc;

use crate::{
    intercept,
    listen::Inbound,
    proxy::{Proxy, Worker},
    state::ConnectorId,
    workload::EgressId,
};

/// Hands connections to the workers in turn.
#[derive(Clone)]
pub struct Workers {
    queues: Arc<[mpsc::UnboundedSender<Inbound>]>,
    /// Whose the queues are.
    all: Arc<[Arc<Worker>]>,
    next: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts as many workers as are wanted. They end when the last handle is gone.
    pub fn start(proxy: &Arc<Proxy>) -> io::Result<Self> {
        let wanted = proxy.tuning.workers;
        let count = wanted
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, usize::from);
        let workers: Arc<[_]> = (0..count).map(|_| Worker::new(Arc::clone(proxy))).collect();
        let queues: Vec<_> = workers
            .iter()
            .enumerate()
            .map(|(n, worker)| start_worker(n, Arc::clone(worker)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            queues: queues.into(),
            all: workers,
            next: Arc::default(),
        })
    }

    /// Passes a connection on. The queue is bounded by the permit that each one holds.
    pub fn deliver(&self, inbound: Inbound) {
        let n = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        if self.queues[n].send(inbound).is_err() {
            tracing::error!("a worker has stopped; its connections are closed");
        }
    }

    /// Drops upstream connections that are kept for a workload that is gone.
    pub fn forget(&self, egress: &EgressId) {
        for worker in self.all.iter() {
            worker.upstream.forget(egress);
        }
    }

    /// Drops upstream connections of Connectors that are gone or have changed.
    pub fn forget_connectors(&self, gone: &BTreeSet<ConnectorId>) {
        if gone.is_empty() {
            return;
        }
        for worker in self.all.iter() {
            worker.upstream.forget_connectors(gone);
        }
    }
}

fn start_worker(n: usize, worker: Arc<Worker>) -> io::Result<mpsc::UnboundedSender<Inbound>> {
    let (queue, mut connections) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("worker-{n}"))
        .spawn(move || {
            runtime.block_on(async move {
                while let Some(inbound) = connections.recv().await {
                    tokio::spawn(intercept::transparent(Arc::clone(&worker), inbound));
                }
            });
        })?;
    Ok(queue)
}
