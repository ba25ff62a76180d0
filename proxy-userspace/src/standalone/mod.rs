//! `postern run`: an agent for one workload, with files as its snapshot.

mod bundle;
mod child;
mod destinations;
mod enter;
mod environment;
mod rundir;

pub use bundle::Bind;
pub use enter::enter;

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nix::sys::prctl::set_dumpable;
use proxy_common::maps::{CREDENTIAL_USABLE, Credential};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    net::TcpListener,
    time::{Instant, interval, interval_at, sleep, timeout},
};

use crate::{
    datapath::Datapath,
    forward::ForwardProxy,
    gate::Routes,
    limits,
    listen::{self, Listeners},
    proxy::{Proxy, Worker},
    state::Connector,
    telemetry::Counters,
    tls::{Authority, Interceptor, Roots},
    worker::Workers,
    workload::{Cgroup, NetNs, Workload},
};
use bundle::Trust;
use child::Child;
use destinations::Destinations;
use rundir::RunDir;

/// The one policy of a run.
const POLICY: u32 = 1;

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
        Mode::Forward => forward(&proxy, trust, name, &options.command).await,
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
        routes: ArcSwap::from_pointee(Routes::new(connectors, &Roots::system())?),
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
    let cgroup = Cgroup::create(&rundir.cgroup_name())
        .context("cannot set up redirection (--mode forward does without)")?;
    rundir.remember_cgroup(cgroup.path())?;
    let grace = u64::try_from(limits::GRACE.as_nanos()).unwrap_or(u64::MAX);
    let (mut datapath, flows) = Datapath::load(cgroup.levels(), grace)?;
    let listeners = Listeners::bind(&NetNs::own())?;
    let workload = Arc::new(Workload {
        cgroup_id: cgroup.id(),
        name,
    });
    let (port_v4, port_v6) = listeners.ports();
    for connector in connectors {
        // A file has no version: the credential is the one the run started with.
        let binding = Credential {
            generation: 1,
            revision: 1,
            not_after_ns: 0,
            state: CREDENTIAL_USABLE,
            flags: 0,
        };
        datapath.set_credential(connector.id.0, binding)?;
    }
    let mut destinations = Destinations::new(POLICY, connectors, &proxy.resolver);
    datapath.set_destinations(&destinations.resolve().await?)?;
    // Resolving may have taken longer than the kernel waits.
    datapath.heartbeat()?;
    datapath.enrol(
        cgroup.id(),
        proxy_common::maps::Workload {
            policy: POLICY,
            port_v4,
            port_v6,
        },
    )?;
    datapath.attach(cgroup.directory())?;

    let workers = Workers::start(proxy).context("cannot start the workers")?;
    let accept = listen::accept(
        listeners,
        Arc::clone(&workload),
        Arc::new(flows),
        Arc::clone(&proxy.counters),
        move |inbound| workers.deliver(inbound),
    );
    let mut variables = trust.variables;
    variables.extend(environment::for_transparent(&proxy.routes.load()));
    let mut child = Child::spawn(command, Some(cgroup.path()), &trust.overlays, &variables)?;
    let code = {
        let serve = async {
            tokio::select! {
                result = accept => ended("the listener", result),
                result = keep_up(&mut destinations, &mut datapath) => ended("the datapath", result),
            }
        };
        tokio::pin!(serve);
        let code = tokio::select! {
            code = child.wait() => code,
            error = &mut serve => Err(error),
        };
        // What the command leaves running ends with it; what its connections ended with is still
        // to be counted and told.
        cgroup.kill();
        if code.is_ok() {
            tokio::select! {
                () = farewell(&proxy.counters) => {}
                _ = serve => {}
            }
        }
        code
    };
    if stats && let Ok(stats) = datapath.stats() {
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

/// Signs of life for the kernel, and addresses as they change.
async fn keep_up(destinations: &mut Destinations<'_>, datapath: &mut Datapath) -> Result<()> {
    let mut heartbeat = interval(limits::HEARTBEAT);
    let mut names = interval_at(
        Instant::now() + limits::RESOLVE_AGAIN,
        limits::RESOLVE_AGAIN,
    );
    loop {
        tokio::select! {
            _ = heartbeat.tick() => datapath.heartbeat()?,
            _ = names.tick() => {
                // The heartbeat must not wait for a slow resolver.
                let resolved = destinations.resolve();
                tokio::pin!(resolved);
                let wanted = loop {
                    tokio::select! {
                        wanted = &mut resolved => break wanted,
                        _ = heartbeat.tick() => datapath.heartbeat()?,
                    }
                };
                match wanted {
                    Ok(wanted) => datapath.set_destinations(&wanted)?,
                    Err(error) => tracing::warn!("addresses are left as they were: {error:#}"),
                }
            }
        }
    }
}

async fn forward(
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
    variables.extend(environment::for_forward(&proxy.routes.load()));
    let url = format!(
        "http://postern:{}@127.0.0.1:{port}",
        password.expose_secret()
    );
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        variables.push((variable.into(), url.clone().into()));
    }
    let workload = Arc::new(Workload { cgroup_id: 0, name });
    let server = Arc::new(ForwardProxy::new(
        Worker::new(Arc::clone(proxy)),
        workload,
        &password,
    ));
    let mut child = Child::spawn(command, None, &[], &variables)?;
    tokio::select! {
        code = child.wait() => code,
        result = server.serve(listener) => Err(ended("the forward proxy", result)),
    }
}

/// The error for something that only ends when it fails.
fn ended<E: Into<anyhow::Error>>(what: &str, result: std::result::Result<(), E>) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{what} ended unexpectedly"),
        Err(error) => error.into().context(format!("{what} failed")),
    }
}
