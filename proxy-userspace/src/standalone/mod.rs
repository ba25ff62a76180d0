//! `postern run`: an agent for one workload, with files as its snapshot.

mod bundle;
mod child;
mod enter;
mod environment;
mod rundir;
mod signals;

pub use bundle::Bind;
pub use enter::{Plan, enter};

use std::{collections::BTreeMap, ffi::OsString, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nix::sys::prctl::set_dumpable;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{
    admission::Admission,
    forward::ForwardProxy,
    gate::{Policies, Prepared},
    limits::{self, Tuning},
    node::{Binding, Granted, Node},
    process::raise_open_files,
    proxy::{Proxy, Worker},
    state::Connector,
    telemetry::Counters,
    tls::{Authority, Interceptor, Roots},
    workload::{Cgroup, Egress, Enrolment, NetNs, PolicyId, Workload},
};
use bundle::Trust;
use child::Child;
use rundir::RunDir;
use signals::Signals;

/// The one policy of a run.
const POLICY: PolicyId = PolicyId(1);

/// How connections come to Postern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel redirects them.
    Transparent,
    /// Proxy variables in the environment.
    Forward,
}

/// What `postern run` was asked to do.
pub struct Options {
    /// The Connectors that the command may use.
    pub connectors: Vec<Arc<Connector>>,
    /// How its connections come to Postern.
    pub mode: Mode,
    /// The command and its arguments; not empty.
    pub command: Vec<OsString>,
    /// Whether to print counters at the end.
    pub stats: bool,
    /// Limits of the proxy.
    pub tuning: Tuning,
}

/// Runs the command and returns its exit code. Whatever was set up for it is gone afterwards.
pub fn run(options: Options) -> Result<ExitCode> {
    // Other processes of the same user cannot read the credentials out of this one's memory.
    // Root can, whatever is done here.
    if let Err(error) = set_dumpable(false) {
        tracing::warn!("cannot protect the memory of this process: {error}");
    }
    // One thread for everything but the connections, and the one that the child's life is
    // tied to.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(start(options));
    // A resolver that hangs must not keep Postern from ending.
    runtime.shutdown_background();
    code
}

async fn start(options: Options) -> Result<ExitCode> {
    // Before anything is set up: from here on a signal ends Postern only by way of its
    // clean-up.
    let signals = Signals::listen()?;
    let open_files = raise_open_files().context("cannot read the limit of open files")?;
    let rundir = RunDir::create()?;
    let (proxy, root_pem) = proxy(&options.connectors, options.tuning)?;
    let proxy = Arc::new(proxy);
    let run = Run {
        trust: Trust::prepare(&root_pem, rundir.path())?,
        proxy: Arc::clone(&proxy),
        signals,
        open_files,
        options: &options,
    };
    let code = match options.mode {
        Mode::Transparent => run.transparent(&rundir).await,
        Mode::Forward => run.forward().await,
    };
    if options.stats {
        eprintln!("postern: {}", proxy.counters);
    }
    code
}

/// The proxy, and the root that the command has to trust, in PEM.
fn proxy(connectors: &[Arc<Connector>], tuning: Tuning) -> Result<(Proxy, String)> {
    let hosts: Vec<String> = connectors
        .iter()
        .flat_map(|connector| connector.addresses())
        .map(|address| address.host.clone())
        .collect();
    let (authority, root_pem) = Authority::with_root(&hosts)?;
    let interceptor = Interceptor::new()?;
    interceptor.set_authority(authority);
    let proxy = Proxy {
        policies: ArcSwap::default(),
        interceptor,
        resolver: Arc::default(),
        admission: Arc::new(Admission::new(&tuning)),
        counters: Arc::default(),
        tuning,
    };
    Ok((proxy, root_pem))
}

/// One run, prepared as far as both modes have in common.
struct Run<'a> {
    options: &'a Options,
    proxy: Arc<Proxy>,
    trust: Trust,
    signals: Signals,
    /// The limit of open files that the command gets.
    open_files: u64,
}

impl Run<'_> {
    async fn transparent(mut self, rundir: &RunDir) -> Result<ExitCode> {
        let connectors = &self.options.connectors;
        let cgroup = Cgroup::create(&rundir.cgroup_name(), &rundir.spare_mount())
            .context("cannot set up redirection (--mode forward does without)")?;
        rundir.remember_cgroup(&cgroup)?;
        let mut node = Node::start(Arc::clone(&self.proxy), cgroup.levels())
            .context("cannot redirect connections (--mode forward does without)")?;
        let granted = connectors.iter().map(|connector| Granted {
            connector: Arc::clone(connector),
            binding: Binding::of_file(),
        });
        let policies = BTreeMap::from([(POLICY, granted.collect())]);
        let refused = node.set_policies(policies, &Roots::system())?;
        if let Some((_, error)) = refused.into_iter().next() {
            return Err(error.into());
        }
        tokio::select! {
            resolved = node.resolve() => resolved?,
            signal = self.signals.next() => return Ok(child::signalled(signal?)),
        }
        let workload = self.workload(cgroup.id());
        node.enrol(workload, NetNs::own(), cgroup.path())?;
        node.attach(cgroup.directory())
            .context("cannot redirect connections (--mode forward does without)")?;

        let mut variables = std::mem::take(&mut self.trust.variables);
        variables.extend(environment::for_transparent(connectors));
        let mut child = Child::spawn(
            &self.options.command,
            Some(cgroup.path()),
            &self.trust.overlays,
            &variables,
            self.open_files,
        )?;
        let code = tokio::select! {
            code = child.wait(&mut self.signals) => code,
            error = node.keep_up() => Err(error.into()),
        };
        // What the command leaves running ends with it; what its connections ended with is
        // still to be counted and told.
        cgroup.kill();
        if code.is_ok() {
            tokio::select! {
                () = farewell(&self.proxy.counters) => {}
                _ = node.keep_up() => {}
            }
        }
        if self.options.stats
            && let Ok(stats) = node.stats()
        {
            eprintln!("postern: kernel: {stats}");
        }
        code
    }

    async fn forward(mut self) -> Result<ExitCode> {
        let connectors = &self.options.connectors;
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let mut random = [0; 24];
        rustls::crypto::aws_lc_rs::default_provider()
            .secure_random
            .fill(&mut random)
            .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        let password: SecretString = BASE64_URL_SAFE_NO_PAD.encode(random).into();
        let mut variables = std::mem::take(&mut self.trust.copies);
        variables.extend(environment::for_forward(connectors));
        let url = format!(
            "http://postern:{}@127.0.0.1:{port}",
            password.expose_secret()
        );
        for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            variables.push((variable.into(), url.clone().into()));
        }
        let roots = Roots::system();
        let prepared = connectors
            .iter()
            .map(|connector| Prepared::new(connector, &roots))
            .collect::<Result<_, _>>()?;
        let policies = Policies::new([(POLICY, prepared)]);
        self.proxy.policies.store(Arc::new(policies));
        let workload = Arc::new(Enrolment::new(self.workload(0), Egress::own()));
        let server = Arc::new(ForwardProxy::new(
            Worker::new(Arc::clone(&self.proxy)),
            workload,
            &password,
        ));
        let command = &self.options.command;
        let mut child = Child::spawn(command, None, &[], &variables, self.open_files)?;
        tokio::select! {
            code = child.wait(&mut self.signals) => code,
            result = server.serve(listener) => {
                result.context("the forward proxy failed")?;
                bail!("the forward proxy ended")
            }
        }
    }

    /// The command, as messages call it.
    fn workload(&self, cgroup_id: u64) -> Workload {
        let name = self.options.command.first();
        Workload {
            cgroup_id,
            name: name
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            policy: POLICY,
        }
    }
}

/// Waits for the end of all connections, within bounds.
async fn farewell(counters: &Counters) {
    let quiet = async {
        // Connections that wait to be accepted are accepted first.
        sleep(limits::FAREWELL / 100).await;
        while Counters::read(&counters.open) > 0 {
            sleep(limits::FAREWELL / 100).await;
        }
    };
    let _ = timeout(limits::FAREWELL, quiet).await;
}
