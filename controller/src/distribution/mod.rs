//! The agents' listener: gRPC over TLS.
//!
//! [`serve`] accepts connections, [`Service`] answers calls. Every call carries a token of the
//! agent's service account, which the API server reviews; the node is taken from its claims,
//! and an agent gets the state of that node and no other.
//!
//! A token lasts an hour and cannot be reviewed again once it is over. So a stream ends after
//! [`limits::STREAM_AGE`] with `UNAVAILABLE`, and its agent subscribes again with the token
//! that it has by then. Until it does, the agent keeps what it has.

mod claims;
mod identity;
pub mod limits;
mod listener;
mod newest;
mod service;
mod session;

use std::sync::Arc;

use proxy_common::distribution::distribution_server::DistributionServer;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::warn;

pub use identity::{AGENT, AUDIENCE};
pub use service::Service;

use service::Calls;

/// Why the listener ended although nobody told it to.
#[derive(Debug, Error)]
#[error("cannot serve agents: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves agents until `shutdown` is ready. Then no connection is accepted any more, all
/// streams are ended with `UNAVAILABLE`, and calls that run have [`limits::DRAIN`] to end.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Service,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // The other end is gone: stop.
    let (running, stopped) = watch::channel(());
    let calls = Calls::new(service, stopped.clone());
    let calls = DistributionServer::new(calls)
        .max_decoding_message_size(limits::AGENT_MESSAGE)
        .max_encoding_message_size(limits::UPDATE);

    let (sender, connections) = mpsc::channel(1);
    // Ends with this future, however that does.
    let mut accepting = JoinSet::new();
    accepting.spawn(listener::accept(listener, TlsAcceptor::from(tls), sender));

    let serving = Server::builder()
        .http2_keepalive_interval(Some(limits::PING))
        .http2_keepalive_timeout(Some(limits::PONG))
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(limits::HEADER_LIST)
        .add_service(calls)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), until_gone(stopped));
    let stopping = async move {
        shutdown.await;
        drop(running);
        sleep(limits::DRAIN).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = stopping => {
            warn!("some agents did not let go of their connection; it is cut");
            Ok(())
        }
    }
}

/// Waits until the sender is dropped.
async fn until_gone(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}
