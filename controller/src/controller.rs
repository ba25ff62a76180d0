//! The parts of the controller, put together.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use http::header::{HeaderValue, USER_AGENT};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::nodes::Nodes;
use crate::options::Options;
use crate::{cluster, health};

/// Runs the controller until it is told to end by SIGTERM or SIGINT.
///
/// An API server that does not answer is waited for. Errors are those that a restart does
/// not cure by itself: no configuration, an address that is in use, a fault of our own.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = client().await?;
    let nodes = Arc::new(Nodes::default());
    let (pulse, pings) = health::pulse();

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let watched = cluster::run(client.clone(), Arc::clone(&nodes), options.limits(), pings);
    parts.spawn(async { Ok(watched.await?) });
    let listener = listen(options.health_listen, "--health-listen").await?;
    let healthy = health::serve(listener, pulse, Arc::clone(&nodes));
    parts.spawn(async {
        healthy.await;
        Ok(())
    });

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(part) = parts.join_next() => Err(match part {
            Ok(Ok(())) => anyhow!("a part of the controller ended"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a part of the controller failed"),
        }),
    };
    parts.shutdown().await;
    ended
}

/// Talks to the API server of the cluster that the controller runs in, or to that of the
/// kubeconfig.
async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context(
        "no API server is known: run in a pod with a service account, or set KUBECONFIG",
    )?;
    let agent = concat!("postern-controller/", env!("CARGO_PKG_VERSION"));
    let agent = (USER_AGENT, HeaderValue::from_static(agent));
    config.headers.push(agent);
    let url = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("cannot talk to the API server at {url}"))
}

async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another {option}"))
}
