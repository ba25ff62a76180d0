//! From an accepted connection to its requests: decides between interception and splicing,
//! terminates TLS, and runs the HTTP server.

use std::{convert::Infallible, error::Error, io, pin::pin, sync::Arc};

use http::StatusCode;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    detect::{self, Protocol},
    gate::Site,
    guard::{Guard, Patient},
    limits,
    listen::Inbound,
    pipeline::{self, Caller},
    proxy::Worker,
    state::{ConnectorId, Scheme, normal_host, split_authority},
    telemetry::Counters,
    tls::{H2, HTTP1, is_distrust},
    upstream::{self, HttpVersion},
    workload::Enrolment,
};

/// Serves one connection that the kernel redirected, until it or its workload ends.
pub async fn transparent(worker: Arc<Worker>, inbound: Inbound) {
    let workload = Arc::clone(&inbound.workload);
    tokio::select! {
        () = serve(worker, inbound) => {}
        () = workload.ended() => {}
    }
}

async fn serve(worker: Arc<Worker>, inbound: Inbound) {
    let Inbound {
        stream,
        workload,
        dialled,
        connector,
        slot: _slot,
    } = inbound;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!("cannot serve a connection: {error}");
            return;
        }
    };
    let protocol = match detect::detect(&stream).await {
        Ok(protocol) => protocol,
        Err(error) => {
            tracing::debug!(workload = workload.name, "the client went away: {error}");
            return;
        }
    };
    let policies = worker.proxy.policies.load();
    let routes = policies.routes(workload.policy()).unwrap_or_default();
    let port = dialled.port();
    match protocol {
        Protocol::Tls { sni, alpn } if speaks_http(&alpn) => {
            let host = sni.unwrap_or_else(|| dialled.ip().to_string());
            if let Some(site) = routes.site(Scheme::Https, &host, port) {
                return tls(worker, workload, site, stream).await;
            }
        }
        Protocol::Http1 { host: Some(host) } => {
            let site =
                split_authority(&host).and_then(|(host, _)| routes.site(Scheme::Http, &host, port));
            if let Some(site) = site {
                return plain(worker, workload, site, HttpVersion::Http1, stream).await;
            }
        }
        Protocol::H2c => {
            if let Some(site) = routes.site_of(Scheme::Http, ConnectorId(connector), port) {
                return plain(worker, workload, site, HttpVersion::Http2, stream).await;
            }
        }
        _ => {}
    }
    drop((policies, routes));
    Counters::add(&worker.proxy.counters.spliced, 1);
    tracing::debug!(workload = workload.name, %dialled, "no Connector's: passed through");
    if let Err(error) = upstream::splice(stream, &workload.egress, dialled).await {
        tracing::debug!(workload = workload.name, %dialled, "pass-through ended: {error}");
    }
}

/// Terminates TLS for a site and serves what is inside.
///
/// The upstream is asked first which HTTP version it prefers among those that the client
/// offers, so that both sides of the proxy speak the same.
pub async fn tls<IO>(worker: Arc<Worker>, workload: Arc<Enrolment>, site: Arc<Site>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let hello = start.client_hello();
        let name = hello.server_name().map(normal_host);
        if name.as_ref().is_some_and(|name| *name != site.host) {
            return Err(io::Error::other(
                "the server name is not the host of the tunnel",
            ));
        }
        let offered: Vec<Vec<u8>> = hello
            .alpn()
            .map(|offers| offers.map(<[u8]>::to_vec).collect())
            .unwrap_or_default();
        let version = agree(&worker, &workload, &site, &offered).await;
        let alpn = (!offered.is_empty()).then(|| version.alpn());
        let config = worker
            .proxy
            .interceptor
            .config(&site.host, name.is_some(), alpn)
            .map_err(io::Error::other)?;
        Ok((start.into_stream(config).await?, version))
    };
    match timeout(limits::TLS_ACCEPT, handshake).await {
        Ok(Ok((stream, version))) => plain(worker, workload, site, version, stream).await,
        Ok(Err(error)) => report(&worker, &workload, &site, &error),
        Err(_) => tracing::debug!(workload = workload.name, "the TLS handshake took too long"),
    }
}

/// The HTTP version for a client that offers `offered`.
async fn agree(
    worker: &Worker,
    workload: &Enrolment,
    site: &Site,
    offered: &[Vec<u8>],
) -> HttpVersion {
    let asked = worker
        .upstream
        .negotiate(&workload.egress, site.endpoint(), offered);
    match asked.await {
        Ok(version) => version,
        Err(error) => {
            // The connection is accepted all the same: its requests get the reason as answer.
            tracing::debug!(host = site.host, "{error}");
            if offered.is_empty() || offered.iter().any(|offer| offer == HTTP1) {
                HttpVersion::Http1
            } else {
                HttpVersion::Http2
            }
        }
    }
}

/// Serves the requests of one connection to a site.
pub async fn plain<IO>(
    worker: Arc<Worker>,
    workload: Arc<Enrolment>,
    site: Arc<Site>,
    version: HttpVersion,
    io: IO,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Counters::add(&worker.proxy.counters.intercepted, 1);
    let caller = Arc::new(Caller::new(
        Arc::clone(&worker),
        Arc::clone(&workload),
        Arc::clone(&site),
        version,
    ));
    let calling = Arc::clone(&caller);
    let patience = worker.proxy.tuning.idle_body;
    let served = match version {
        HttpVersion::Http1 => {
            let (io, requests) = Guard::new(io, patience);
            let service = service_fn(move |request: http::Request<Incoming>| {
                let (caller, requests) = (Arc::clone(&calling), requests.clone());
                async move {
                    let response = match requests.next() {
                        None => pipeline::handle(&caller, request).await,
                        Some(refusal) => pipeline::refuse(&caller, refusal),
                    };
                    requests.answer(response.status() == StatusCode::SWITCHING_PROTOCOLS);
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits::REQUEST_HEAD)
                .max_buf_size(limits::HEAD_BYTES)
                .max_headers(limits::HEADERS)
                .preserve_header_case(true)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => Some(served),
                () = farewell(&workload) => None,
            };
            if let Some(served) = served {
                served
            } else {
                // Ends it now, or with the answer to the request that it is at.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
        HttpVersion::Http2 => {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let caller = Arc::clone(&calling);
                async move { Ok::<_, Infallible>(pipeline::handle(&caller, request).await) }
            });
            let connection = conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits::H2_STREAMS)
                .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS)
                .max_local_error_reset_streams(limits::H2_OWN_RESETS)
                .initial_stream_window_size(limits::CLIENT_H2_STREAM_WINDOW)
                .initial_connection_window_size(limits::CLIENT_H2_CONNECTION_WINDOW)
                .max_header_list_size(limits::H2_HEADER_LIST)
                .serve_connection(TokioIo::new(Patient::new(io, patience)), service);
            let mut connection = pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => Some(served),
                () = workload.winding_down() => None,
                () = caller.revoked.notified() => None,
            };
            if let Some(served) = served {
                served
            } else {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = served {
        report(&worker, &workload, &site, &error);
    }
    if let Some(tunnel) = caller.take_tunnel()
        && let Err(error) = tunnel.run(worker.proxy.tuning.idle_stream).await
    {
        tracing::debug!(
            workload = workload.name,
            host = site.host,
            "a connection that changed its protocol ended: {error}"
        );
    }
}

/// Waits until HTTP/1.1 connections that are idle have to end. One that was kept may be about
/// to be used, and one that is new has yet to bring its first request.
async fn farewell(workload: &Enrolment) {
    workload.winding_down().await;
    sleep(limits::IDLE_FAREWELL).await;
}

/// Says why a client's connection failed; loudly when the client does not trust Postern.
fn report(worker: &Worker, workload: &Enrolment, site: &Site, error: &(dyn Error + 'static)) {
    if is_distrust(error) {
        Counters::add(&worker.proxy.counters.untrusting, 1);
        tracing::warn!(
            "{} does not trust Postern's certificate for {}: it may carry its own list of CAs \
             or pin certificates; point the program's own CA setting at the file named by \
             SSL_CERT_FILE, which holds Postern's CA",
            workload.name,
            site.host,
        );
    } else {
        tracing::debug!(
            workload = workload.name,
            host = site.host,
            "connection ended: {error}"
        );
    }
}

/// Whether a client's ALPN offer leaves room for HTTP; no offer at all means HTTP/1.1.
fn speaks_http(alpn: &[Vec<u8>]) -> bool {
    alpn.is_empty() || alpn.iter().any(|offer| offer == H2 || offer == HTTP1)
}
