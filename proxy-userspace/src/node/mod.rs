//! The datapath, listeners and workers of one node, and the workloads that they serve.
//!
//! `postern run` is a node with one workload, of which nothing outlives the process. That of
//! an agent is pinned: it can be restarted and replaced while the workloads go on.

mod api_server;
mod destinations;
mod enrolled;
mod expiry;
mod give_way;
mod grants;
mod hand_over;
mod names;
mod pending;
mod shortage;

pub use api_server::ApiServer;
pub use grants::{Binding, Granted};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use proxy_common::maps::{MAX_DESTINATIONS, Stats};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::{
    datapath::{Datapath, DatapathError, FlowTable, Pins, Succession},
    limits,
    listen::{ListenError, Listeners},
    memory::{self, Rush},
    proxy::Proxy,
    state::{Connector, ConnectorId},
    telemetry::Counters,
    tls::{Roots, TlsError},
    worker::Workers,
    workload::{Egress, Enrolment, NetNs, NetNsError, PolicyId, Sockets, Workload},
};
use destinations::Entries;
use enrolled::Enrolled;
use expiry::Terms;
use grants::Grants;
use names::Names;
use shortage::Shortage;

/// Why a node does not work.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel half.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A workload's listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A workload's network namespace.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// No threads.
    #[error("cannot start the workers: {0}")]
    Workers(#[source] io::Error),
    /// No such workload.
    #[error("the workload with cgroup id {0} is not enrolled")]
    NotEnrolled(u64),
    /// Another agent has taken over. Nothing can be changed any more;
    /// [`Node::drain`] is what is left to do.
    #[error("another agent has taken over")]
    Replaced,
}

/// A running node.
///
/// Dropping it closes the listeners and ends all connections. Unless it is pinned, the
/// datapath goes with it; if it is, the kernel refuses the destinations of fail-closed
/// Connectors until the next agent starts.
pub struct Node {
    datapath: Datapath,
    flows: Arc<FlowTable>,
    proxy: Arc<Proxy>,
    workers: Workers,
    /// Makes sockets in the namespaces of workloads; started for the first one.
    sockets: Option<Sockets>,
    grants: Grants,
    terms: Terms,
    /// Counts the changes of `grants`.
    version: u64,
    /// The version whose names are being resolved.
    resolving: u64,
    /// The maps hold what an earlier agent wrote. It stays until all names of the first
    /// grants were resolved, or for as long as addresses are remembered: connections to a
    /// Connector must not go without its credential because its name does not resolve.
    inherits: bool,
    since: Instant,
    /// Pods came of which it was not known yet what they are granted: the maps hold what any
    /// policy wants as well.
    any_policy: bool,
    api_server: ApiServer,
    shortage: Shortage,
    /// By the cgroup of the workload.
    enrolled: HashMap<u64, Enrolled>,
    heartbeat: Interval,
    claims: Interval,
    tidying: Interval,
    rush: Rush,
    names: Names,
    replaced: bool,
}

impl Node {
    /// Loads the datapath and starts the workers. Nothing is attached yet, and nothing
    /// outlives the node.
    ///
    /// `levels` are the depths in the cgroup tree at which workloads live.
    pub fn start(proxy: Arc<Proxy>, levels: &[u8]) -> Result<Self, NodeError> {
        let loaded = Datapath::load(levels, nanoseconds(limits::GRACE))?;
        Self::with(proxy, loaded)
    }

    /// The same with maps and links pinned below `pins`, a directory on a BPF file system.
    ///
    /// What is there already is taken over: from an agent that is gone, or, if `succession` says
    /// so, from one that runs, which is told to give way and waited for. Workloads are served as
    /// they were until they are [enrolled](Self::enrol) anew; those of an agent that is gone stay
    /// refused (or direct, if fail-open) until the first of them is. Agents of all versions
    /// count; what one whose maps have another layout has in the kernel stays until
    /// [`forget_strangers`](Self::forget_strangers). Dropping the future tells the other agent to
    /// stay, and one that could not run here does not tell it to go.
    pub async fn take_over(
        proxy: Arc<Proxy>,
        levels: &[u8],
        pins: &Path,
        succession: Succession,
    ) -> Result<Self, NodeError> {
        Datapath::verify()?;
        let pins = Pins::take(pins, succession).await?;
        let loaded = Datapath::load_pinned(levels, nanoseconds(limits::GRACE), pins)?;
        Self::with(proxy, loaded)
    }

    fn with(proxy: Arc<Proxy>, loaded: (Datapath, FlowTable)) -> Result<Self, NodeError> {
        let (datapath, flows) = loaded;
        Ok(Self {
            inherits: datapath.has_destinations(),
            any_policy: datapath.has_unclassified(),
            api_server: ApiServer::default(),
            since: Instant::now(),
            datapath,
            flows: Arc::new(flows),
            workers: Workers::start(&proxy).map_err(NodeError::Workers)?,
            names: Names::new(&proxy.resolver),
            proxy,
            sockets: None,
            grants: Grants::default(),
            terms: Terms::default(),
            version: 0,
            resolving: 0,
            shortage: Shortage::default(),
            enrolled: HashMap::new(),
            heartbeat: every(limits::HEARTBEAT),
            claims: every(limits::CLAIM_WATCH),
            tidying: every(limits::LEARNED_WATCH),
            rush: Rush::default(),
            replaced: false,
        })
    }

    /// Has pods of which it is not known yet what they are granted reach the API server, even if
    /// a Connector names it. For before the first policies are [set](Self::set_policies).
    pub fn spare(&mut self, api_server: ApiServer) {
        self.api_server = api_server;
    }

    /// Replaces what each policy grants.
    ///
    /// A Connector whose certificates cannot be used is returned with the reason; what goes
    /// there is refused, or goes direct if it fails open. All others are in force, as far as the
    /// kernel's maps have room for their addresses; what they have none for is logged. Connectors that are what they were (the same object,
    /// or equal but for a credential of the same generation and revision) keep their
    /// registry tokens and their connections. `roots` have to be the same each time.
    ///
    /// Addresses that are known are redirected at once, those of new names after
    /// [`resolve_soon`](Self::resolve_soon) or [`resolve`](Self::resolve).
    pub fn set_policies(
        &mut self,
        policies: BTreeMap<PolicyId, Vec<Granted>>,
        roots: &Roots,
    ) -> Result<Vec<(Arc<Connector>, TlsError)>, NodeError> {
        self.check_writer()?;
        let renewal = self.grants.renew(policies, roots);
        self.grants = renewal.grants;
        self.version += 1;
        // The kernel must not send anything to a proxy that does not know what to do with
        // it: what is new is known to the proxy first, what is old last.
        let routes = self.grants.routes();
        let before = self.proxy.policies.load_full();
        let both = routes.with_others(&before);
        self.proxy.policies.store(Arc::new(both));
        self.proxy.resolver.keep(self.hosts());
        self.update_credentials()?;
        self.update_destinations()?;
        self.proxy.policies.store(Arc::new(routes));
        self.workers.forget_connectors(&renewal.changed);
        Ok(renewal.refused)
    }

    /// Resolves all hosts and tells the kernel what to redirect. Signs of life go on
    /// meanwhile.
    pub async fn resolve(&mut self) -> Result<(), NodeError> {
        self.resolve_soon();
        while self.names.is_busy() {
            self.tick().await?;
        }
        Ok(())
    }

    /// Has hosts that are new resolved in the background; all others are when it is time.
    pub fn resolve_soon(&mut self) {
        self.names.soon();
    }

    /// Opens listeners for a workload in its network namespace and has its connections
    /// redirected there. A workload that is enrolled already is moved to the new namespace.
    /// `cgroup` is the directory of its cgroup, at which its DNS answers are looked at.
    pub fn enrol(
        &mut self,
        workload: Workload,
        netns: NetNs,
        cgroup: &Path,
    ) -> Result<(), NodeError> {
        self.check_writer()?;
        let (cgroup_id, policy) = (workload.cgroup_id, workload.policy);
        let listeners = Listeners::bind(&netns)?;
        let enrolled = Enrolled::start(
            Enrolment::new(workload, self.egress(netns)?),
            listeners,
            &self.flows,
            &self.proxy,
            &self.workers,
        );
        self.datapath.learn(cgroup_id, cgroup)?;
        self.datapath.enrol(cgroup_id, enrolled.entry(policy))?;
        if let Some(before) = self.enrolled.insert(cgroup_id, enrolled) {
            before.end(&self.workers);
        }
        Ok(())
    }

    /// Grants a workload something else: connections to come, and requests to come on open
    /// ones.
    pub fn set_policy(&mut self, cgroup_id: u64, policy: PolicyId) -> Result<(), NodeError> {
        self.check_writer()?;
        let enrolled = self
            .enrolled
            .get(&cgroup_id)
            .ok_or(NodeError::NotEnrolled(cgroup_id))?;
        enrolled.enrolment.set_policy(policy);
        Ok(self.datapath.enrol(cgroup_id, enrolled.entry(policy))?)
    }

    /// Leaves a workload alone from now on, and ends the connections that it has. One that
    /// is not enrolled is left alone already.
    pub fn withdraw(&mut self, cgroup_id: u64) -> Result<(), NodeError> {
        self.check_writer()?;
        self.datapath.withdraw(cgroup_id)?;
        if let Some(enrolled) = self.enrolled.remove(&cgroup_id) {
            enrolled.end(&self.workers);
        }
        Ok(())
    }

    /// Whether the kernel has an entry for a workload, whoever wrote it.
    pub fn has_entry(&self, cgroup_id: u64) -> bool {
        self.datapath.has_workload(cgroup_id)
    }

    /// Leaves alone what an earlier agent served and this one does not: workloads that are
    /// not enrolled, and cgroups that nothing was [attached](Self::attach) to. For when
    /// everything that is to be served is.
    ///
    /// Workloads to `keep` stay as they are although they are not enrolled: what they dial is
    /// refused until they are.
    pub fn forget_strangers(&mut self, keep: impl Fn(u64) -> bool) -> Result<(), NodeError> {
        self.check_writer()?;
        let enrolled = &self.enrolled;
        let stays = |id| enrolled.contains_key(&id) || keep(id);
        Ok(self.datapath.retain(stays)?)
    }

    /// Attaches the datapath to a cgroup and all below it, in the place of an earlier
    /// agent's.
    pub fn attach(&mut self, cgroup: impl AsFd) -> Result<(), NodeError> {
        self.check_writer()?;
        Ok(self.datapath.attach(cgroup)?)
    }

    /// Signs of life for the kernel, and addresses as they change. Ends only when it fails,
    /// or with [`NodeError::Replaced`]; dropping the future loses nothing.
    pub async fn keep_up(&mut self) -> NodeError {
        loop {
            if let Err(error) = self.tick().await {
                return error;
            }
        }
    }

    /// Has the kernel count on this node for that long after a sign of life, instead of for
    /// [`limits::GRACE`]. This is one.
    pub fn set_grace(&mut self, grace: Duration) -> Result<(), NodeError> {
        self.check_writer()?;
        Ok(self.datapath.set_grace(nanoseconds(grace))?)
    }

    /// Cgroup ids of the workloads that are served.
    pub fn enrolled(&self) -> impl Iterator<Item = u64> {
        self.enrolled.keys().copied()
    }

    /// The kernel's counters. Those of a pinned node count from before it started.
    pub fn stats(&self) -> Result<Stats, NodeError> {
        Ok(self.datapath.stats()?)
    }

    async fn tick(&mut self) -> Result<(), NodeError> {
        self.await_decision().await?;
        self.check_writer()?;
        tokio::select! {
            _ = self.heartbeat.tick() => {
                self.watch_claims().await?;
                self.update_terms()?;
                self.datapath.heartbeat()?;
            }
            _ = self.claims.tick() => self.watch_claims().await?,
            _ = self.tidying.tick() => self.tidy(),
            event = self.names.next() => match event {
                names::Event::Due => {
                    self.resolving = self.version;
                    self.names.start(self.hosts());
                    self.resolved(&names::News::default());
                }
                names::Event::Done(news) => self.resolved(&news),
            },
        }
        Ok(())
    }

    fn tidy(&mut self) {
        if let Err(error) = self.datapath.tidy() {
            tracing::warn!("learned addresses are left as they were: {error}");
        }
        let open = Counters::read(&self.proxy.counters.open);
        if self.rush.is_over(open, Instant::now()) {
            tokio::task::spawn_blocking(memory::give_back);
        }
    }

    fn resolved(&mut self, news: &names::News) {
        names::complain(&news.missing, self.grants.connectors());
        let complete = self.names.are_all_known() && self.resolving == self.version;
        let was_heir = self.inherits;
        if complete && self.version > 0 || self.since.elapsed() > limits::ADDRESS_LIFE {
            self.inherits = false;
        }
        if !news.changed && was_heir == self.inherits {
            return;
        }
        if let Err(error) = self.update_destinations() {
            tracing::warn!("addresses are left as they were: {error}");
        }
    }

    /// The way out for a workload in a namespace.
    fn egress(&mut self, netns: NetNs) -> Result<Egress, NodeError> {
        if netns.is_own() {
            return Ok(Egress::own());
        }
        let sockets = match &self.sockets {
            Some(sockets) => sockets.clone(),
            None => self.sockets.insert(Sockets::start()?).clone(),
        };
        Ok(Egress::of(netns, sockets))
    }

    fn update_destinations(&mut self) -> Result<(), NodeError> {
        let mut wanted = self.entries();
        let mut left_out = wanted.share(MAX_DESTINATIONS);
        let Entries {
            addresses,
            hostnames,
        } = wanted;
        let (more, more_names) = if self.inherits {
            (
                self.datapath.add_destinations(&addresses)?,
                self.datapath.add_hostnames(&hostnames)?,
            )
        } else {
            (
                self.datapath.set_destinations(&addresses)?,
                self.datapath.set_hostnames(&hostnames)?,
            )
        };
        let policies = more.iter().map(|key| key.policy);
        for policy in policies.chain(more_names.iter().map(|key| key.policy)) {
            *left_out.entry(PolicyId(policy)).or_default() += 1;
        }
        self.shortage
            .of_destinations(left_out, self.grants.policies());
        if self.inherits {
            return Ok(());
        }
        // Nothing leads to the others any more.
        let grants = &self.grants;
        self.datapath
            .retain_credentials(|id| grants.contains(ConnectorId(id)))?;
        if !self.shortage.without_place.is_empty() {
            self.update_credentials()?;
        }
        Ok(())
    }

    fn entries(&self) -> Entries {
        let mut entries = destinations::entries(
            self.grants.policies(),
            &self.proxy.resolver,
            &self.shortage.without_place,
        );
        if self.any_policy {
            entries.add_union(
                self.grants.policies(),
                &self.proxy.resolver,
                &self.shortage.without_place,
                &self.api_server,
            );
        }
        entries
    }

    fn hosts(&self) -> BTreeSet<String> {
        let connectors = self.grants.connectors();
        let addresses = connectors.flat_map(|connector| connector.addresses());
        addresses.map(|address| address.host.clone()).collect()
    }
}

/// The first time at once.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
