//! `postern agent`: serves the pods of one node with what the controller says.
//!
//! One thread does everything but the connections: it takes the controller's updates
//! ([`controller`], [`snapshot`]), has the node's authority signed ([`authority`]), pairs pods
//! with their cgroups ([`pods`]) and tells how it is ([`status`]). What serves them is the
//! [`Node`] that `postern run` uses.

mod authority;
mod controller;
mod distrust;
mod first;
mod pods;
mod retired;
mod snapshot;
mod status;
mod stop;
mod wire;

pub use status::{Status, StatusError, Untrusting, ask};

use std::{
    fs::File,
    iter,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use nix::sys::prctl::set_dumpable;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use crate::{
    admission::Admission,
    datapath::{Succession, ensure_alone},
    limits::{self, Tuning},
    node::{ApiServer, Node, NodeError},
    process::raise_open_files,
    proxy::Proxy,
    telemetry::Counters,
    tls::{Interceptor, Roots},
    workload::{
        hierarchy,
        pods::{PodWatcher, levels, outermost},
    },
};
use authority::Signer;
use controller::{Controller, Receipt, Update};
use distrust::Distrust;
use first::First;
use pods::{Pods, own_pod};
use snapshot::Snapshot;
use status::{Board, Facts, News, Socket};
use stop::Stop;

/// What `postern agent` was told.
pub struct Options {
    /// Name of the node, as in `spec.nodeName` of its pods.
    pub node: String,
    /// Host and port of the controller.
    pub controller: String,
    /// Address or name of the cluster's API server.
    pub api_server: Option<String>,
    /// PEM file of the authority that vouches for the controller.
    pub controller_ca: PathBuf,
    /// File with the service account's token; read anew for each connection.
    pub token_file: PathBuf,
    /// The part of the cgroup tree that holds the kubelet's directory; `None` looks for the
    /// mount of the unified hierarchy.
    pub cgroup_root: Option<PathBuf>,
    /// Where programs and maps are pinned, on a BPF file system.
    pub pins: PathBuf,
    /// What becomes of another agent that uses them.
    pub succession: Succession,
    /// For the status socket.
    pub run_directory: PathBuf,
    /// Limits of the proxy.
    pub tuning: Tuning,
}

/// Serves until it is told to stop or a successor has taken over.
pub fn run(options: &Options) -> Result<ExitCode> {
    // Other processes of the same user cannot read the credentials out of this one's memory.
    if let Err(error) = set_dumpable(false) {
        tracing::warn!("cannot protect the memory of this process: {error}");
    }
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(start(options));
    // A resolver that hangs must not keep the agent from ending.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn start(options: &Options) -> Result<()> {
    let mut stop = Stop::listen()?;
    if options.succession == Succession::Refuse {
        // Before anything that the other one could notice, such as its socket.
        ensure_alone(&options.pins)?;
    }
    let cgroups = match &options.cgroup_root {
        Some(path) => path.clone(),
        None => hierarchy()?,
    };
    let board = Arc::new(Board::new(&options.node));
    let socket = Socket::bind(&options.run_directory).with_context(|| {
        let directory = options.run_directory.display();
        format!("cannot listen for questions about the status in {directory}")
    })?;
    let controller = Controller::new(options);
    let (sender, updates) = mpsc::channel(1);
    let agent = Agent {
        proxy: Arc::new(Proxy {
            policies: ArcSwap::default(),
            interceptor: Interceptor::new()?,
            resolver: Arc::default(),
            admission: Arc::new(Admission::new(&options.tuning)),
            counters: Arc::default(),
            tuning: options.tuning,
        }),
        roots: Roots::system(),
        connected: controller.connected(),
        signer: Signer::new(Arc::clone(&controller)),
        distrust: Distrust::new(Arc::clone(&controller)),
        board: Arc::clone(&board),
        snapshot: Snapshot::default(),
        unacknowledged: None,
        updates,
    };
    tokio::select! {
        () = socket.serve(&board) => Ok(()),
        () = controller.subscribe(sender) => Ok(()),
        done = agent.serve(options, &cgroups, &mut stop) => done,
    }
}

/// What an agent knows.
struct Agent {
    proxy: Arc<Proxy>,
    roots: Roots,
    signer: Signer,
    distrust: Distrust,
    snapshot: Snapshot,
    updates: mpsc::Receiver<Update>,
    /// The last update, until all of it is in force.
    unacknowledged: Option<(u64, Receipt, Vec<String>)>,
    connected: watch::Receiver<bool>,
    board: Arc<Board>,
}

impl Agent {
    async fn serve(mut self, options: &Options, cgroups: &Path, stop: &mut Stop) -> Result<()> {
        tokio::select! {
            () = self.learn() => {}
            () = stop.wait() => return Ok(()),
        }
        tokio::select! {
            () = self.resolve() => {}
            () = stop.wait() => return Ok(()),
        }
        // Only now does a predecessor, if there is one, stop following the controller.
        let kubepods = outermost(cgroups)?;
        let mut watcher = PodWatcher::new(cgroups)?;
        let found: Vec<_> = iter::from_fn(|| watcher.try_next()).collect();
        let mut pods = Pods::new(own_pod(&found)?);
        let levels = levels(&kubepods);
        let take_over = Node::take_over(
            Arc::clone(&self.proxy),
            &levels,
            &options.pins,
            options.succession,
        );
        let mut node = tokio::select! {
            node = take_over => node?,
            () = stop.wait() => return Ok(()),
        };
        if let Some(host) = &options.api_server {
            node.spare(ApiServer::at(host));
        }
        self.bring_into_force(&mut node)?;
        for path in &kubepods {
            let directory = File::open(path)
                .with_context(|| format!("cannot open the cgroup {}", path.display()))?;
            node.attach(&directory)?;
        }
        pods.set_told(Some(Instant::now()));
        for event in found {
            pods.find(event, &self.snapshot, &mut node);
        }
        let ended = self.follow(&mut node, &mut pods, &mut watcher, stop).await;
        self.board.update(|status| status.ready = false);
        match ended {
            Err(error) if is_replaced(&error) => {
                return self.retire(node, &options.pins, stop).await;
            }
            Err(error) => return Err(error),
            Ok(()) => tokio::select! {
                () = node.drain(limits::STOPPING) => {}
                () = self.beat() => {}
            },
        }
        Ok(())
    }

    /// Serves what its pods still have open here, and then waits to be told to stop: whoever
    /// looks after this process would start it again, and it would take the node back. That is
    /// what has to be when the successor is gone: this fails then.
    async fn retire(&self, node: Node, pins: &Path, stop: &mut Stop) -> Result<()> {
        tracing::info!("a successor has taken over; waiting to be stopped");
        let end = async {
            let mut drain = pin!(node.drain(limits::HAND_OVER));
            tokio::select! {
                () = &mut drain => stop.wait().await,
                () = stop.wait() => {
                    // What is open may end; whoever is not done by then was told to be.
                    let _ = timeout(limits::STOPPING, drain).await;
                }
            }
        };
        tokio::select! {
            () = end => Ok(()),
            () = self.beat() => Ok(()),
            () = retired::desertion(pins) => bail!(
                "the successor is gone, and nobody serves the node: ending, to be started again"
            ),
        }
    }

    /// Signs of life, and nothing else.
    async fn beat(&self) {
        let mut beat = interval(limits::HEARTBEAT);
        loop {
            beat.tick().await;
            self.report(None);
        }
    }

    /// Waits for the first state and for an authority.
    async fn learn(&mut self) {
        let mut beat = interval(limits::HEARTBEAT);
        loop {
            if self.snapshot.version().is_some() {
                self.signer.want(self.snapshot.hosts());
                if self.signer.hosts().is_some() {
                    return;
                }
            }
            tokio::select! {
                Some(update) = self.updates.recv() => self.take(&update),
                authority = self.signer.next() => {
                    self.proxy.interceptor.set_authority(authority);
                }
                _ = beat.tick() => self.report(None),
            }
        }
    }

    /// Makes the resolver know the hosts: destinations that a predecessor left in the kernel
    /// are replaced by those that are known here. They stay while some are missing, so that pods
    /// need not wait for names that do not resolve.
    async fn resolve(&self) {
        let mut missing = self.snapshot.hosts().clone();
        let lookups = async {
            let mut running = JoinSet::new();
            for host in missing.clone() {
                if running.len() >= limits::RESOLVE_AT_ONCE
                    && let Some(Ok(done)) = running.join_next().await
                {
                    missing.remove(&done);
                }
                let resolver = Arc::clone(&self.proxy.resolver);
                running.spawn(async move {
                    // One that fails is complained about when it is tried again.
                    drop(resolver.resolve(&host).await);
                    host
                });
            }
            while let Some(done) = running.join_next().await {
                if let Ok(done) = done {
                    missing.remove(&done);
                }
            }
        };
        tokio::select! {
            () = lookups => {}
            () = self.beat() => {}
            () = sleep(limits::RESOLVE) => {
                let missing: Vec<_> = missing.into_iter().collect();
                tracing::warn!(
                    "starting without the addresses of {}, which have not been found in {} s",
                    missing.join(", "),
                    limits::RESOLVE.as_secs()
                );
            }
        }
    }

    /// Follows the controller and the cgroup tree until it is told to stop.
    async fn follow(
        &mut self,
        node: &mut Node,
        pods: &mut Pods,
        watcher: &mut PodWatcher,
        stop: &mut Stop,
    ) -> Result<()> {
        let mut first = First::new();
        let mut beat = interval(limits::HEARTBEAT);
        let mut told = Some(Instant::now());
        let mut told_last = News::default();
        node.resolve_soon();
        loop {
            first.look(pods, &self.snapshot, node)?;
            let facts = Facts {
                pods: pods.changes(),
                served: first.are_served(),
                state: self.snapshot.version(),
                signed: self.signer.signed(),
                connected: *self.connected.borrow(),
            };
            if told_last.is_news(facts) {
                self.report(Some((node, pods, first.are_served())));
            } else {
                self.board.update(|_| {});
            }
            if !*self.connected.borrow() {
                told = None;
            }
            pods.set_told(told);
            let retry = pods.next_retry();
            tokio::select! {
                event = watcher.next() => pods.observe(event?, &self.snapshot, node),
                Some(update) = self.updates.recv() => {
                    self.take(&update);
                    if update.message.full {
                        told = Some(Instant::now());
                        pods.set_told(told);
                    }
                    self.snapshot.hold(pods.held(&self.snapshot));
                    self.bring_into_force(node)?;
                    node.resolve_soon();
                    pods.follow(&self.snapshot, node);
                    if self.snapshot.forget_retired() {
                        self.bring_into_force(node)?;
                    }
                }
                authority = self.signer.next() => {
                    self.proxy.interceptor.set_authority(authority);
                    self.bring_into_force(node)?;
                    node.resolve_soon();
                    if self.signer.was_asked_for(self.snapshot.hosts()) {
                        self.acknowledge("the node's authority does not cover all hosts");
                    }
                }
                () = at(retry) => pods.retry(&self.snapshot, node),
                () = stop.wait() => return Ok(()),
                error = node.keep_up() => return Err(error.into()),
                _ = beat.tick() => {
                    // The authority grows old.
                    self.signer.want(self.snapshot.hosts());
                    // What connections do, and time, is reported as often as this.
                    told_last = News::default();
                    self.distrust.report(self.untrusting(), &self.snapshot);
                }
            }
        }
    }

    /// Takes over an update; what of it cannot be followed is said when it is acknowledged.
    fn take(&mut self, update: &Update) {
        let version = update.message.version;
        let faults = self.snapshot.apply(&update.message);
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        if !faults.is_empty() {
            let faults = faults.join("; ");
            tracing::error!(
                "the controller's update {version} is not in force as a whole: {faults}"
            );
        }
        self.unacknowledged = Some((version, update.receipt.clone(), faults));
    }

    /// Makes the state that is known the one in force, as far as the authority is good for it;
    /// the rest follows when it has been signed for.
    fn bring_into_force(&mut self, node: &mut Node) -> Result<()> {
        self.signer.want(self.snapshot.hosts());
        let Some(signed) = self.signer.hosts() else {
            return Ok(());
        };
        let refused = node.set_policies(self.snapshot.grants(signed), &self.roots)?;
        if let Some((_, _, faults)) = &mut self.unacknowledged {
            for (_, error) in &refused {
                tracing::error!("{error}");
                faults.push(error.to_string());
            }
        }
        if self.signer.settles(self.snapshot.hosts()) {
            self.acknowledge("");
        }
        Ok(())
    }

    /// Tells the controller what became of its last update, unless it knows.
    fn acknowledge(&mut self, fault: &str) {
        if let Some((version, receipt, mut faults)) = self.unacknowledged.take() {
            faults.extend((!fault.is_empty()).then(|| fault.to_owned()));
            receipt.acknowledge(version, faults.join("; "));
        }
    }

    fn untrusting(&self) -> Vec<Untrusting> {
        let list = self.proxy.interceptor.untrusting.list().into_iter();
        list.map(|(workload, host, connections)| Untrusting {
            workload,
            host,
            connections,
        })
        .collect()
    }

    fn report(&self, serving: Option<(&Node, &Pods, bool)>) {
        let unsigned = match self.signer.hosts() {
            Some(signed) => self.snapshot.hosts().difference(signed).count(),
            None => self.snapshot.hosts().len(),
        };
        let counters = &self.proxy.counters;
        self.board.update(|status| {
            status.connected = *self.connected.borrow();
            status.state_version = self.snapshot.version();
            status.connectors = self.snapshot.connectors();
            status.undecided = self.snapshot.undecided();
            status.unsigned_hosts = unsigned;
            status.connections = Counters::read(&counters.open);
            status.injected = Counters::read(&counters.injected);
            status.untrusting = self.untrusting();
            status.proxy = status::counters(&**counters);
            if let Some((node, pods, ready)) = serving {
                // What cannot be read now is what it was a second ago.
                if let Ok(stats) = node.stats() {
                    status.kernel = status::counters(&stats);
                }
                status.ready = ready;
                status.pods = pods.enrolled();
                status.waiting_pods = pods.waiting(&self.snapshot);
            }
        });
    }
}

fn is_replaced(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(NodeError::Replaced))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
