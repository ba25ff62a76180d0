//! The explicit way in: an HTTP proxy for clients that cannot be redirected.
//!
//! `CONNECT` to a Connector's host is intercepted like a redirected connection; to any other
//! host it is a tunnel. Absolute-form requests go through the same pipeline.

use std::{convert::Infallible, future::Future, io, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, UPGRADE},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    admission::{Share, Slot},
    gate::{self, Refusal, Routes, Site},
    guard::Guard,
    intercept, limits, listen,
    pipeline::{self, Caller},
    proxy::{Proxy, Worker},
    state::{Address, Scheme, split_authority},
    telemetry::Counters,
    upstream::{self, Body, Endpoint, HttpVersion},
    workload::Enrolment,
};

/// A forward proxy for one workload.
pub struct ForwardProxy {
    worker: Arc<Worker>,
    workload: Arc<Enrolment>,
    /// What `Proxy-Authorization` has to be: a loopback port is open to every user.
    authorization: SecretString,
}

impl ForwardProxy {
    /// A proxy that takes the user `postern` with `password`.
    pub fn new(worker: Arc<Worker>, workload: Arc<Enrolment>, password: &SecretString) -> Self {
        let pair = format!("postern:{}", password.expose_secret());
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(pair)).into();
        Self {
            worker,
            workload,
            authorization,
        }
    }

    /// Serves until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let Proxy {
            admission,
            tuning,
            counters,
            ..
        } = &*self.worker.proxy;
        let share = Share::new(admission, tuning, counters);
        listen::prepare(&listener)?;
        loop {
            share.room(&self.workload.name).await;
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    Counters::add(&counters.failed_accepts, 1);
                    // Out of descriptors: accept() fails at once and would spin.
                    tracing::error!("cannot accept: {error}");
                    sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            Counters::add(&counters.accepted, 1);
            let proxy = Arc::clone(&self);
            tokio::spawn(proxy.connection(stream, Arc::new(share.enter())));
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, slot: Arc<Slot>) {
        let (io, requests) = Guard::new(stream, self.worker.proxy.tuning.idle_body);
        let service = service_fn(move |request: Request<Incoming>| {
            let (proxy, requests) = (Arc::clone(&self), requests.clone());
            // A tunnel outlives the connection's life as HTTP, and counts as well.
            let slot = Arc::clone(&slot);
            async move {
                let tunnel = request.method() == Method::CONNECT;
                let response = match requests.next() {
                    None => proxy.request(slot, request).await,
                    Some(refusal) => proxy.refuse(&refusal),
                };
                requests.answer(tunnel && response.status().is_success());
                Ok::<_, Infallible>(response)
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::REQUEST_HEAD)
            .max_buf_size(limits::HEAD_BYTES)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!("a connection to the forward proxy ended: {error}");
        }
    }

    /// Answers a request whose head is refused before it is read.
    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        Counters::add(&self.worker.proxy.counters.refused, 1);
        let mut response = text(refusal.status, &refusal.reason);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    }

    async fn request(
        self: Arc<Self>,
        slot: Arc<Slot>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let authorization = request.headers_mut().remove(PROXY_AUTHORIZATION);
        let expected = self.authorization.expose_secret().as_bytes();
        if !authorization.is_some_and(|given| constant_time_eq(given.as_bytes(), expected)) {
            let mut response = text(
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                "this proxy serves one command only; use the proxy variables of its environment",
            );
            response.headers_mut().insert(
                PROXY_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"postern\""),
            );
            return response;
        }
        let Some((host, port)) = request
            .uri()
            .authority()
            .and_then(|authority| split_authority(authority.as_str()))
        else {
            return text(
                StatusCode::BAD_REQUEST,
                "this is a proxy: requests have to name their host in the request target",
            );
        };
        if request.method() == Method::CONNECT {
            let Some(port) = port else {
                return text(StatusCode::BAD_REQUEST, "CONNECT needs host:port");
            };
            return self.connect(slot, host, port, request).await;
        }
        self.absolute_form(slot, host, port, request).await
    }

    /// Requests with an absolute target; everything but https to strangers.
    async fn absolute_form(
        &self,
        slot: Arc<Slot>,
        host: String,
        port: Option<u16>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        // Clients ask for another protocol by way of CONNECT.
        request.headers_mut().remove(UPGRADE);
        let (scheme, default) = match request.uri().scheme_str() {
            Some("https") => (Scheme::Https, 443),
            _ => (Scheme::Http, 80),
        };
        let port = port.unwrap_or(default);
        let routes = self.routes();
        if let Some(site) = routes.site(scheme, &host, port) {
            return pipeline::handle(&self.caller(site, slot), request).await;
        }
        if scheme == Scheme::Https {
            return text(
                StatusCode::BAD_REQUEST,
                "https to a host that no Connector covers needs CONNECT",
            );
        }
        self.pass_on(host, port, request).await
    }

    /// What the command may use.
    fn routes(&self) -> Arc<Routes> {
        let policies = self.worker.proxy.policies.load();
        policies.routes(self.workload.policy()).unwrap_or_default()
    }

    fn caller(&self, site: Arc<Site>, slot: Arc<Slot>) -> Caller {
        let (worker, workload) = (Arc::clone(&self.worker), Arc::clone(&self.workload));
        Caller::new(worker, workload, site, slot, HttpVersion::Http1)
    }

    /// Plain HTTP to a host that no Connector covers.
    async fn pass_on(&self, host: String, port: u16, request: Request<Incoming>) -> Response<Body> {
        let endpoint = Endpoint {
            connector: None,
            address: Address {
                scheme: Scheme::Http,
                host,
                port,
                path: String::new(),
            },
            tls: None,
        };
        let (mut head, body) = request.into_parts();
        gate::strip_request(&mut head.headers);
        let tuning = &self.worker.proxy.tuning;
        let body = upstream::incoming(body, tuning.between_frames(&head.headers));
        let sent = self
            .worker
            .upstream
            .send(
                &self.workload.egress,
                &endpoint,
                HttpVersion::Http1,
                Request::from_parts(head, body),
            )
            .await;
        Counters::add(&self.worker.proxy.counters.plain, 1);
        match sent {
            Ok(mut response) => {
                gate::strip_response(response.headers_mut());
                response
            }
            Err(error) => text(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }

    async fn connect(
        self: Arc<Self>,
        slot: Arc<Slot>,
        host: String,
        port: u16,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let upgrade = hyper::upgrade::on(&mut request);
        let routes = self.routes();
        if let Some(site) = routes.site(Scheme::Https, &host, port)
            && !intercept::passes(&self.worker, &self.workload, &site)
        {
            tokio::spawn(self.intercept(slot, site, upgrade, Scheme::Https));
            return Response::new(upstream::empty());
        }
        if let Some(site) = routes.site(Scheme::Http, &host, port) {
            tokio::spawn(self.intercept(slot, site, upgrade, Scheme::Http));
            return Response::new(upstream::empty());
        }
        // The destination is dialled first, so that the client learns of a failure.
        let dialled = timeout(limits::CONNECT, TcpStream::connect((host.as_str(), port))).await;
        let server = match dialled {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                let reason = format!("cannot connect to {host}:{port}: {error}");
                return text(StatusCode::BAD_GATEWAY, &reason);
            }
            Err(_) => {
                let reason = format!("{host}:{port} did not accept a connection in time");
                return text(StatusCode::GATEWAY_TIMEOUT, &reason);
            }
        };
        Counters::add(&self.worker.proxy.counters.spliced, 1);
        tokio::spawn(counted(slot, self.tunnel(upgrade, server)));
        Response::new(upstream::empty())
    }

    /// Passes a tunnel through, by the bare connection: neither HTTP nor its limits are wanted
    /// any more.
    async fn tunnel(self: Arc<Self>, upgrade: OnUpgrade, mut server: TcpStream) {
        let (client, early) = match upgrade.await.map(bare) {
            Ok(Some(bare)) => bare,
            Ok(None) => {
                tracing::error!("a tunnel is closed: it is not on a connection of this proxy");
                return;
            }
            Err(error) => {
                tracing::debug!("a tunnel was not opened: {error}");
                return;
            }
        };
        // Sent along with CONNECT, without waiting for the answer.
        if let Err(error) = server.write_all(&early).await {
            upstream::reset(&client);
            tracing::debug!("a tunnel ended: {error}");
            return;
        }
        let passed = upstream::relay(client, server, &self.worker.pipes).await;
        let bytes = passed.bytes() + early.len() as u64;
        Counters::add(&self.worker.proxy.counters.spliced_bytes, bytes);
        if let Err(error) = passed.end {
            tracing::debug!("a tunnel ended: {error}");
        }
    }

    async fn intercept(
        self: Arc<Self>,
        slot: Arc<Slot>,
        site: Arc<Site>,
        upgrade: OnUpgrade,
        scheme: Scheme,
    ) {
        slot.narrow();
        let io = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(host = site.host, "the tunnel was not opened: {error}");
                return;
            }
        };
        let (worker, workload) = (Arc::clone(&self.worker), Arc::clone(&self.workload));
        match scheme {
            Scheme::Https => intercept::tls(worker, workload, site, slot, io).await,
            Scheme::Http => {
                intercept::plain(worker, workload, site, slot, HttpVersion::Http1, io).await;
            }
        }
    }
}

/// Holds places while a task runs.
async fn counted(_slot: Arc<Slot>, task: impl Future<Output = ()>) {
    task.await;
}

/// The connection below a tunnel, and what was read of it already.
fn bare(upgraded: Upgraded) -> Option<(TcpStream, BytesMut)> {
    let parts = upgraded.downcast::<TokioIo<Guard<TcpStream>>>().ok()?;
    let (stream, held) = parts.io.into_inner().into_parts();
    // What the guard holds came after what it passed on.
    let mut early = BytesMut::from(parts.read_buf);
    early.extend_from_slice(&held);
    Some((stream, early))
}

fn text(status: StatusCode, reason: &str) -> Response<Body> {
    let mut response = Response::new(upstream::full(format!("postern: {reason}\n")));
    *response.status_mut() = status;
    response
}

/// Compares without telling by its duration how much was right.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
