//! The datapath, listeners and workers of one node, and the workloads that they serve.
//!
//! `postern run` is a node with one workload.

mod destinations;

pub use destinations::TooManyPorts;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use proxy_common::maps::{CREDENTIAL_USABLE, Credential, Stats};
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::{Instant, Interval, interval, interval_at},
};

use crate::{
    datapath::{Datapath, DatapathError, FlowTable},
    gate::{Policies, Prepared},
    limits,
    listen::{self, ListenError, Listeners},
    proxy::Proxy,
    state::{Connector, ConnectorId},
    tls::{Roots, TlsError},
    worker::Workers,
    workload::{NetNs, PolicyId, Workload},
};

/// Why a node does not work.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel half.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A Connector's certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A workload's listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Addresses of Connectors.
    #[error(transparent)]
    Destinations(#[from] TooManyPorts),
    /// No threads.
    #[error("cannot start the workers: {0}")]
    Workers(#[source] io::Error),
}

/// A running node. Dropping it detaches the datapath and closes the listeners.
pub struct Node {
    datapath: Datapath,
    flows: Arc<FlowTable>,
    proxy: Arc<Proxy>,
    workers: Workers,
    /// What each policy grants.
    policies: BTreeMap<PolicyId, Vec<Arc<Connector>>>,
    /// Listeners by the cgroup of their workload.
    enrolled: HashMap<u64, Enrolled>,
    heartbeat: Interval,
    names: Interval,
    /// Names that are being resolved, apart from everything that must not wait for it.
    resolving: Option<JoinHandle<Vec<(String, io::Error)>>>,
    /// Hosts that did not resolve the last time, and were complained about.
    missing: HashSet<String>,
}

struct Enrolled(AbortHandle);

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    /// Loads the datapath and starts the workers. Nothing is attached yet.
    ///
    /// `levels` are the depths in the cgroup tree at which workloads live.
    pub fn start(proxy: Arc<Proxy>, levels: &[u8]) -> Result<Self, NodeError> {
        let (datapath, flows) = Datapath::load(levels, nanoseconds(limits::GRACE))?;
        Ok(Self {
            datapath,
            flows: Arc::new(flows),
            workers: Workers::start(&proxy).map_err(NodeError::Workers)?,
            proxy,
            policies: BTreeMap::new(),
            enrolled: HashMap::new(),
            heartbeat: interval(limits::HEARTBEAT),
            names: interval_at(
                Instant::now() + limits::RESOLVE_AGAIN,
                limits::RESOLVE_AGAIN,
            ),
            resolving: None,
            missing: HashSet::new(),
        })
    }

    /// Sets what each policy grants.
    pub fn set_policies(
        &mut self,
        policies: BTreeMap<PolicyId, Vec<Arc<Connector>>>,
        roots: &Roots,
    ) -> Result<(), NodeError> {
        let mut prepared: HashMap<ConnectorId, Prepared> = HashMap::new();
        for connector in policies.values().flatten() {
            prepared.insert(connector.id, Prepared::new(connector, roots)?);
        }
        for id in prepared.keys() {
            // A file has no version: the credential is the one the run started with.
            let binding = Credential {
                generation: 1,
                revision: 1,
                not_after_ns: 0,
                state: CREDENTIAL_USABLE,
                flags: 0,
            };
            self.datapath.set_credential(id.0, binding)?;
        }
        let grants = policies.iter().map(|(policy, connectors)| {
            let granted = connectors
                .iter()
                .filter_map(|connector| prepared.get(&connector.id).cloned());
            (*policy, granted.collect())
        });
        self.proxy.policies.store(Arc::new(Policies::new(grants)));
        self.policies = policies;
        Ok(())
    }

    /// Resolves all hosts and tells the kernel what to redirect.
    pub async fn resolve(&mut self) -> Result<(), NodeError> {
        let failed = resolve(Arc::clone(&self.proxy), self.hosts()).await;
        self.complain(failed);
        self.update_destinations()?;
        // Resolving may have taken longer than the kernel waits.
        Ok(self.datapath.heartbeat()?)
    }

    /// Opens listeners for a workload in its network namespace and has its connections
    /// redirected there.
    pub fn enrol(&mut self, workload: Workload, netns: &NetNs) -> Result<(), NodeError> {
        let listeners = Listeners::bind(netns)?;
        let (port_v4, port_v6) = listeners.ports();
        let cgroup_id = workload.cgroup_id;
        let entry = proxy_common::maps::Workload {
            policy: workload.policy.0,
            port_v4,
            port_v6,
        };
        let workers = self.workers.clone();
        let accept = listen::accept(
            listeners,
            Arc::new(workload),
            Arc::clone(&self.flows),
            Arc::clone(&self.proxy.counters),
            move |inbound| workers.deliver(inbound),
        );
        let task = tokio::spawn(async move {
            if let Err(error) = accept.await {
                tracing::error!("a listener ended: {error}");
            }
        });
        self.enrolled
            .insert(cgroup_id, Enrolled(task.abort_handle()));
        Ok(self.datapath.enrol(cgroup_id, entry)?)
    }

    /// Attaches the datapath to a cgroup and all below it.
    pub fn attach(&mut self, cgroup: impl AsFd) -> Result<(), NodeError> {
        Ok(self.datapath.attach(cgroup)?)
    }

    /// Signs of life for the kernel, and addresses as they change. Ends only when it fails;
    /// dropping the future loses nothing.
    pub async fn keep_up(&mut self) -> NodeError {
        loop {
            if let Err(error) = self.tick().await {
                return error;
            }
        }
    }

    /// The kernel's counters.
    pub fn stats(&self) -> Result<Stats, NodeError> {
        Ok(self.datapath.stats()?)
    }

    async fn tick(&mut self) -> Result<(), NodeError> {
        tokio::select! {
            _ = self.heartbeat.tick() => self.datapath.heartbeat()?,
            _ = self.names.tick(), if self.resolving.is_none() => {
                let work = resolve(Arc::clone(&self.proxy), self.hosts());
                self.resolving = Some(tokio::spawn(work));
            }
            done = finished(&mut self.resolving) => {
                self.resolving = None;
                self.complain(done);
                if let Err(error) = self.update_destinations() {
                    tracing::warn!("addresses are left as they were: {error}");
                }
            }
        }
        Ok(())
    }

    fn update_destinations(&mut self) -> Result<(), NodeError> {
        let entries = destinations::entries(&self.policies, &self.proxy.resolver)?;
        Ok(self.datapath.set_destinations(&entries)?)
    }

    fn hosts(&self) -> BTreeSet<String> {
        self.policies
            .values()
            .flatten()
            .flat_map(|connector| connector.addresses())
            .map(|address| address.host.clone())
            .collect()
    }

    /// Reports hosts that do not resolve, once until they do.
    fn complain(&mut self, failed: Vec<(String, io::Error)>) {
        let before = std::mem::take(&mut self.missing);
        for (host, error) in failed {
            if !before.contains(&host) {
                let users: BTreeSet<_> = self
                    .policies
                    .values()
                    .flatten()
                    .filter(|connector| connector.addresses().any(|a| a.host == host))
                    .map(ToString::to_string)
                    .collect();
                let users = Vec::from_iter(users).join(", ");
                tracing::warn!(
                    "cannot resolve {host} of connector {users}: {error}; connections to it \
                     get no credential until it resolves"
                );
            }
            self.missing.insert(host);
        }
    }
}

/// Resolves names so that the resolver knows them; returns those that it does not.
async fn resolve(proxy: Arc<Proxy>, hosts: BTreeSet<String>) -> Vec<(String, io::Error)> {
    let mut failed = Vec::new();
    for host in hosts {
        if let Err(error) = proxy.resolver.resolve(&host).await {
            failed.push((host, error));
        }
    }
    failed
}

/// The result of a task, or never when there is none. A task that panicked found nothing.
async fn finished<T: Default>(task: &mut Option<JoinHandle<T>>) -> T {
    match task {
        Some(task) => task.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
