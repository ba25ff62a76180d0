//! The parts of the controller, put together.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::header::{HeaderValue, USER_AGENT};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::authority::{Authority, RESYNC, keep_bundles};
use crate::distribution::{AUDIENCE, Service, serve};
use crate::health::Ready;
use crate::nodes::Nodes;
use crate::options::Options;
use crate::{cluster, health};

/// How long agents' calls may take to end when the controller is told to.
const FAREWELL: Duration = Duration::from_secs(10);

/// "Address family not supported by protocol": the kernel has no IPv6.
const EAFNOSUPPORT: i32 = 97;

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
    let ready = Ready::new(Arc::clone(&nodes));
    let serves = ready.serves();
    let healthy = health::serve(listener, pulse, ready);
    parts.spawn(async {
        healthy.await;
        Ok(())
    });

    let listener = listen(options.listen, "--listen").await?;
    let (serving, stopped) = watch::channel(());
    parts.spawn(serve_agents(
        client,
        options.namespace,
        nodes,
        listener,
        serves,
        stopped,
    ));

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(part) = parts.join_next() => Err(match part {
            Ok(Ok(())) => anyhow!("a part of the controller ended"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a part of the controller failed"),
        }),
    };
    // Agents are told, so that they turn to another replica at once; it is the only part that
    // ends by itself.
    drop(serving);
    let _ = timeout(FAREWELL, parts.join_next()).await;
    parts.shutdown().await;
    ended
}

/// Serves agents as soon as there is an authority, and keeps its certificate where pods and
/// agents find it. Until then agents wait in the listener's queue.
async fn serve_agents(
    client: Client,
    namespace: String,
    nodes: Arc<Nodes>,
    listener: TcpListener,
    serving: Arc<AtomicBool>,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let authority = Arc::new(Authority::load_or_create(&client, &namespace).await?);
    let certificate = authority.server_certificate()?;
    let tls = certificate.tls_config()?;
    let bundles = keep_bundles(
        Arc::clone(&authority),
        client.clone(),
        nodes.namespaces(),
        RESYNC,
    );
    let root = Arc::clone(&authority);
    let replaced = root.until_replaced(&client, RESYNC);
    let service = Service::new(client.clone(), authority, nodes, AUDIENCE);
    serving.store(true, Ordering::Relaxed);
    let shutdown = async move {
        // There is nothing to receive: the sender goes.
        let _ = stopped.changed().await;
    };
    tokio::select! {
        served = serve(listener, tls, service, shutdown) => Ok(served?),
        () = certificate.keep() => Ok(()),
        () = bundles => Ok(()),
        error = replaced => {
            tracing::error!("{error}");
            Err(error.into())
        }
    }
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
    bind(address, TcpListener::bind)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another {option}"))
}

/// Listens on all interfaces also where there is no IPv6.
async fn bind<T, F: Future<Output = io::Result<T>>>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    match bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(EAFNOSUPPORT) =>
        {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into()).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bound(address: &str, error: i32) -> Option<String> {
        let address: SocketAddr = address.parse().expect("an address");
        let bound = bind(address, async |address| match address {
            SocketAddr::V4(_) => Ok(address.to_string()),
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(error)),
        });
        bound.await.ok()
    }

    #[tokio::test]
    async fn all_interfaces_are_those_of_ipv4_where_there_is_no_ipv6() {
        let fallback = bound("[::]:8443", EAFNOSUPPORT).await;
        assert_eq!(fallback.as_deref(), Some("0.0.0.0:8443"));
        let in_use = 98;
        assert_eq!(bound("[::]:8443", in_use).await, None);
        assert_eq!(bound("[::1]:8443", EAFNOSUPPORT).await, None, "it is meant");
    }
}
