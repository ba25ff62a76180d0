//! From an accepted connection to its requests: decides between interception and splicing,
//! terminates TLS, and runs the HTTP server.

use std::{
    convert::Infallible, error::Error, io, net::SocketAddr, pin::pin, sync::Arc, time::SystemTime,
};

use http::StatusCode;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    admission::Slot,
    detect::{self, First, Protocol},
    gate::Site,
    guard::{Guard, Patient},
    limits,
    listen::Inbound,
    pipeline::{self, Caller},
    proxy::Worker,
    state::{ConnectorId, Scheme, normal_host, split_authority},
    telemetry::Counters,
    tls::{H2, HTTP1, Refused, Sign, is_distrust},
    upstream::{self, HttpVersion, Passed},
    workload::Enrolment,
};

/// Serves one connection that the kernel redirected, until it or its workload ends.
pub async fn transparent(worker: Arc<Worker>, inbound: Inbound) {
    let workload = Arc::clone(&inbound.workload);
    let serve = pin!(serve(worker, inbound));
    workload.until_ended(serve).await;
}

async fn serve(worker: Arc<Worker>, inbound: Inbound) {
    let Inbound {
        stream,
        workload,
        dialled,
        connector,
        slot,
    } = inbound;
    let slot = Arc::new(slot);
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!("cannot serve a connection: {error}");
            return;
        }
    };
    let protocol = match detect::first(&stream, &workload.egress, dialled).await {
        Ok(First::Client(protocol)) => protocol,
        Ok(First::Server(server)) => {
            // What the client said, if anything, was looked at to the end, and nobody would be
            // woken up for it: registered anew it is news.
            let stream = match stream.into_std().and_then(TcpStream::from_std) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::error!("cannot pass a connection through: {error}");
                    return;
                }
            };
            let passing = upstream::relay(stream, server, &worker.pipes);
            return pass(&worker, &workload, dialled, passing).await;
        }
        Ok(First::Nobody) => {
            tracing::debug!(workload = workload.name, %dialled, "the client said nothing in time");
            return;
        }
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
            let site = match sni {
                Some(name) => routes.site(Scheme::Https, &normal_host(&name), port),
                None => routes
                    .site(Scheme::Https, &dialled.ip().to_string(), port)
                    .or_else(|| routes.site_of(Scheme::Https, ConnectorId(connector), port)),
            };
            if let Some(site) = site
                && !passes(&worker, &workload, &site)
            {
                slot.narrow();
                // Larger than what most connections need.
                return Box::pin(tls(worker, workload, site, slot, stream)).await;
            }
        }
        Protocol::Http1 { host: Some(host) } => {
            let site =
                split_authority(&host).and_then(|(host, _)| routes.site(Scheme::Http, &host, port));
            if let Some(site) = site {
                slot.narrow();
                return plain(worker, workload, site, slot, HttpVersion::Http1, stream).await;
            }
        }
        Protocol::H2c => {
            if let Some(site) = routes.site_of(Scheme::Http, ConnectorId(connector), port) {
                slot.narrow();
                return plain(worker, workload, site, slot, HttpVersion::Http2, stream).await;
            }
        }
        _ => {}
    }
    drop((policies, routes));
    let passing = upstream::splice(stream, &workload.egress, dialled, &worker.pipes);
    pass(&worker, &workload, dialled, passing).await;
}

async fn pass(
    worker: &Worker,
    workload: &Enrolment,
    dialled: SocketAddr,
    passing: impl Future<Output = Passed>,
) {
    Counters::add(&worker.proxy.counters.spliced, 1);
    tracing::debug!(workload = workload.name, %dialled, "no Connector's: passed through");
    let passed = passing.await;
    Counters::add(&worker.proxy.counters.spliced_bytes, passed.bytes());
    if let Err(error) = passed.end {
        tracing::debug!(workload = workload.name, %dialled, "pass-through ended: {error}");
    }
}

/// Whether the workload's connections to a site go through untouched: because it does not trust
/// Postern and the Connectors there allow that, or because they fail open and have no certificate
/// that is valid.
pub fn passes(worker: &Worker, workload: &Enrolment, site: &Site) -> bool {
    let untrusting = &worker.proxy.interceptor.untrusting;
    site.may_pass() && untrusting.passes(workload, &site.host)
        || site.is_left_alone(SystemTime::now())
}

/// Terminates TLS for a site and serves what is inside.
///
/// The upstream is asked first which HTTP version it prefers among those that the client
/// offers, so that both sides of the proxy speak the same.
pub async fn tls<IO>(
    worker: Arc<Worker>,
    workload: Arc<Enrolment>,
    site: Arc<Site>,
    slot: Arc<Slot>,
    io: IO,
) where
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
        Ok((start.into_stream(config).await, version))
    };
    let (mut stream, version) = match timeout(limits::TLS_ACCEPT, handshake).await {
        Ok(Ok((Ok(stream), version))) => (stream, version),
        Ok(Ok((Err(error), _))) if is_end(&error) => {
            return distrusted(&worker, &workload, &site, Sign::Silence);
        }
        Ok(Ok((Err(error), _)) | Err(error)) => return report(&worker, &workload, &site, &error),
        Err(_) => {
            tracing::debug!(workload = workload.name, "the TLS handshake took too long");
            return;
        }
    };
    let asks = async { Ok::<_, io::Error>(!stream.fill_buf().await?.is_empty()) };
    let asks = tokio::select! {
        asks = timeout(limits::REQUEST_HEAD, asks) => asks.unwrap_or(Ok(false)),
        () = farewell(&workload) => Ok(false),
    };
    match asks {
        Ok(false) => {
            let _ = stream.shutdown().await;
        }
        Ok(true) => {
            let untrusting = &worker.proxy.interceptor.untrusting;
            untrusting.trusted(&workload, &site.host);
            plain(worker, workload, site, slot, version, stream).await;
        }
        Err(error) if is_end(&error) && has_seen_us(&stream) => {
            distrusted(&worker, &workload, &site, Sign::Silence);
        }
        Err(error) => report(&worker, &workload, &site, &error),
    }
}

/// Whether an error is the end of the connection without the farewell that TLS has for that
/// (RFC 8446, section 6.1).
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Whether the client has seen our certificate on this very connection.
fn has_seen_us<IO>(stream: &TlsStream<IO>) -> bool {
    stream.get_ref().1.handshake_kind() != Some(HandshakeKind::Resumed)
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
    slot: Arc<Slot>,
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
        slot,
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
                .preserve_header_case(true)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let served = workload
                .until_farewell(farewell(&workload), connection.as_mut())
                .await;
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
        distrusted(worker, workload, site, Sign::Alert);
    } else {
        tracing::debug!(
            workload = workload.name,
            host = site.host,
            "connection ended: {error}"
        );
    }
}

/// Counts a connection that was ended because of our certificate, and says so once in a while.
fn distrusted(worker: &Worker, workload: &Enrolment, site: &Site, sign: Sign) {
    if !site.is_usable() || !worker.proxy.interceptor.vouches_for(&site.host) {
        return;
    }
    Counters::add(&worker.proxy.counters.untrusting, 1);
    let untrusting = &worker.proxy.interceptor.untrusting;
    let Refused { tell, passes } = untrusting.refused(workload, &site.host, sign, site.may_pass());
    let Some(count) = tell else { return };
    let (name, host) = (&workload.name, &site.host);
    let what = match sign {
        Sign::Alert => format!("{name} does not trust Postern's certificate for {host}"),
        Sign::Silence => format!(
            "{name} has seen Postern's certificate for {host} and closed the connection \
             without a word, so it probably does not trust it"
        ),
    };
    let then = if passes {
        format!(
            "; its connections to that host now go through without a credential, for {} minutes",
            limits::UNTRUSTING_PASS.as_secs() / 60
        )
    } else {
        String::new()
    };
    tracing::warn!(
        "{what} ({count} connections so far): it may carry its own list of CAs or pin \
         certificates; point the program's own CA setting at the file named by SSL_CERT_FILE, \
         which holds Postern's CA{then}"
    );
}

/// Whether a client's ALPN offer leaves room for HTTP; no offer at all means HTTP/1.1.
fn speaks_http(alpn: &[Vec<u8>]) -> bool {
    alpn.is_empty() || alpn.iter().any(|offer| offer == H2 || offer == HTTP1)
}
