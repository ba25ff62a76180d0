//! A new connection to an upstream.

use std::{net::SocketAddr, sync::Arc};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Endpoint, HttpVersion, Resolver, UpstreamError, http1::Http1, http2::Http2};
use crate::{limits, special::Special, tls::H2, workload::Egress};

/// A connection ready for requests.
pub(super) enum Dialled {
    Http1(Http1),
    Http2(Http2),
}

impl Dialled {
    pub(super) fn version(&self) -> HttpVersion {
        match self {
            Self::Http1(_) => HttpVersion::Http1,
            Self::Http2(_) => HttpVersion::Http2,
        }
    }
}

/// Resolves, connects, verifies. `None` leaves the HTTP version to the upstream; without TLS
/// there is no way to ask, and it is HTTP/1.1. `news` is told what becomes of an HTTP/2 connection.
pub(super) async fn dial(
    resolver: &Resolver,
    egress: &Egress,
    endpoint: &Endpoint,
    version: Option<HttpVersion>,
    news: &Arc<Notify>,
) -> Result<Dialled, UpstreamError> {
    let tcp = connect(resolver, egress, endpoint).await?;
    let Some(tls) = &endpoint.tls else {
        return speak(endpoint, tcp, version.unwrap_or(HttpVersion::Http1), news).await;
    };
    let config = match version {
        None => &tls.any,
        Some(HttpVersion::Http1) => &tls.http1,
        Some(HttpVersion::Http2) => &tls.h2,
    };
    let stream = handshake(endpoint, Arc::clone(config), tcp).await?;
    let agreed = match stream.get_ref().1.alpn_protocol() {
        Some(H2) => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    };
    speak(endpoint, stream, agreed, news).await
}

async fn connect(
    resolver: &Resolver,
    egress: &Egress,
    endpoint: &Endpoint,
) -> Result<TcpStream, UpstreamError> {
    // A workload can read along in its own namespace: what is not encrypted and may carry a
    // credential leaves from here.
    let exposed = endpoint.tls.is_none() && endpoint.connector.is_some();
    let from_workload = egress.is_foreign() && !exposed;
    let addresses = resolver
        .resolve(&endpoint.address.host)
        .await
        .map_err(|source| UpstreamError::resolve(endpoint, &source))?;
    let mut last = None;
    for ip in addresses.iter() {
        let addr = SocketAddr::new(*ip, endpoint.address.port);
        // Whoever writes a Connector chooses the address, but not for the node's own services.
        if egress.is_foreign()
            && exposed
            && let Some(special) = Special::of(*ip)
        {
            last = Some(UpstreamError::node_only(endpoint, addr, special));
            continue;
        }
        let dialled = async {
            if from_workload {
                egress.connect(addr).await
            } else {
                TcpStream::connect(addr).await
            }
        };
        match timeout(limits::CONNECT, dialled).await {
            Ok(Ok(stream)) => {
                // Heads and bodies are written whole; waiting for more only adds delay.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => {
                last = Some(UpstreamError::connect(
                    endpoint,
                    addr,
                    from_workload,
                    &error,
                ));
            }
            Err(_) => {
                last = Some(UpstreamError::connect_timeout(
                    endpoint,
                    addr,
                    from_workload,
                ));
            }
        }
    }
    Err(last.unwrap_or_else(|| UpstreamError::no_address(endpoint)))
}

async fn handshake(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, UpstreamError> {
    let name = ServerName::try_from(endpoint.address.host.clone())
        .map_err(|_| UpstreamError::no_address(endpoint))?;
    match timeout(
        limits::TLS_HANDSHAKE,
        TlsConnector::from(config).connect(name, tcp),
    )
    .await
    {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(UpstreamError::tls(endpoint, &error)),
        Err(_) => Err(UpstreamError::tls_timeout(endpoint)),
    }
}

async fn speak<IO>(
    endpoint: &Endpoint,
    io: IO,
    version: HttpVersion,
    news: &Arc<Notify>,
) -> Result<Dialled, UpstreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| UpstreamError::http(endpoint, &error);
    match version {
        HttpVersion::Http1 => {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(limits::HEAD_BYTES)
                .preserve_header_case(true)
                .handshake(TokioIo::new(io))
                .await
                .map_err(failed)?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!("an upstream connection ended: {error}");
                }
            });
            Ok(Dialled::Http1(Http1::new(sender, task.abort_handle())))
        }
        HttpVersion::Http2 => {
            let connection = Http2::handshake(io, news).await.map_err(failed)?;
            Ok(Dialled::Http2(connection))
        }
    }
}
