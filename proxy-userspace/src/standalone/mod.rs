//! `postern run`: an agent for one workload, with files as its snapshot.

mod bundle;
mod child;
mod enter;
mod environment;
mod rundir;

pub use bundle::Bind;
pub use enter::enter;

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
    forward::ForwardProxy,
    gate::{Policies, Prepared},
    limits,
    node::Node,
    proxy::{Proxy, Worker},
    state::Connector,
    telemetry::Counters,
    tls::{Authority, Interceptor, Roots},
    workload::{Cgroup, NetNs, PolicyId, Workload},
};
use bundle::Trust;
use child::Child;
use rundir::RunDir;

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
    let rundir = RunDir::create()?;
    let proxy = Arc::new(proxy(&options.connectors)?);
    let name = options.command.first().cloned().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let trust = Trust::prepare(proxy.interceptor.root_pem(), rundir.path())?;
    let code = match options.mode {
        Mode::Transparent => {
            transparent(
                &options.connectors,
                &proxy,
                &rundir,
                trust,
                name,
                &options.command,
                options.stats,
            )
            .await
        }
        Mode::Forward => forward(&options.connectors, &proxy, trust, name, &options.command).await,
    };
    if options.stats {
        eprintln!("postern: {}", proxy.counters);
    }
    code
}

fn proxy(connectors: &[Arc<Connector>]) -> Result<Proxy> {
    let hosts: Vec<String> = connectors
        .iter()
        .flat_map(|connector| connector.addresses())
        .map(|address| address.host.clone())
        .collect();
    Ok(Proxy {
        policies: ArcSwap::default(),
        interceptor: Interceptor::new(Authority::new(&hosts)?)?,
        resolver: Arc::default(),
        counters: Arc::default(),
    })
}

async fn transparent(
    connectors: &[Arc<Connector>],
    proxy: &Arc<Proxy>,
    rundir: &RunDir,
    trust: Trust,
    name: String,
    command: &[OsString],
    stats: bool,
) -> Result<ExitCode> {
    let cgroup = Cgroup::create(&rundir.cgroup_name(), &rundir.spare_mount())
        .context("cannot set up redirection (--mode forward does without)")?;
    rundir.remember_cgroup(&cgroup)?;
    let mut node = Node::start(Arc::clone(proxy), cgroup.levels())?;
    let grants = BTreeMap::from([(POLICY, connectors.to_vec())]);
    node.set_policies(grants, &Roots::system())?;
    node.resolve().await?;
    let workload = Workload::new(cgroup.id(), name, POLICY);
    node.enrol(workload, &NetNs::own())?;
    node.attach(cgroup.directory())?;

    let mut variables = trust.variables;
    variables.extend(environment::for_transparent(connectors));
    let mut child = Child::spawn(command, Some(cgroup.path()), &trust.overlays, &variables)?;
    let code = tokio::select! {
        code = child.wait() => code,
        error = node.keep_up() => Err(error.into()),
    };
    // What the command leaves running ends with it; what its connections ended with is still
    // to be counted and told.
    cgroup.kill();
    if code.is_ok() {
        tokio::select! {
            () = farewell(&proxy.counters) => {}
            _ = node.keep_up() => {}
        }
    }
    if stats && let Ok(stats) = node.stats() {
        eprintln!("postern: kernel: {stats}");
    }
    code
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

async fn forward(
    connectors: &[Arc<Connector>],
    proxy: &Arc<Proxy>,
    trust: Trust,
    name: String,
    command: &[OsString],
) -> Result<ExitCode> {
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
    let mut variables = trust.copies;
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
    proxy.policies.store(Arc::new(policies));
    let workload = Arc::new(Workload::new(0, name, POLICY));
    let server = Arc::new(ForwardProxy::new(
        Worker::new(Arc::clone(proxy)),
        workload,
        &password,
    ));
    let mut child = Child::spawn(command, None, &[], &variables)?;
    tokio::select! {
        code = child.wait() => code,
        result = server.serve(listener) => {
            result.context("the forward proxy failed")?;
            bail!("the forward proxy ended")
        }
    }
}
