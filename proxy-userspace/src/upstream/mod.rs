//! Where it goes: the Connector's own address, resolved and verified by Postern, whatever
//! the workload dialled.

mod body;
mod dial;
mod error;
mod pool;
mod resolve;
mod splice;

pub use body::{Body, BodyError, empty, full, incoming};
pub use error::{Kind as ErrorKind, UpstreamError};
pub use resolve::Resolver;
pub use splice::splice;

use std::{future::Future, sync::Arc, time::Duration};

use http::{Method, Request, Response, Version};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use crate::{
    limits,
    state::{Address, ConnectorId, Scheme},
    tls::{H2, HTTP1, UpstreamTls},
};
use body::{Progress, RequestBody};
use dial::Dialled;
use pool::{Pool, PoolKey};

/// An upstream as far as connections to it are concerned. Connections are shared by requests
/// to equal endpoints of one Connector, never between Connectors.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Whose credential travels on the connections; `None` for none.
    pub connector: Option<ConnectorId>,
    /// Where it is; the path plays no role.
    pub address: Address,
    /// Trust, when the scheme is https.
    pub tls: Option<UpstreamTls>,
}

/// HTTP version spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    /// Its ALPN name.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => HTTP1,
            Self::Http2 => H2,
        }
    }
}

/// Marks an answer that came before the request was read to its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestUnread;

/// One worker's connections to upstreams.
#[derive(Debug)]
pub struct Upstream {
    resolver: Arc<Resolver>,
    pool: Arc<Pool>,
}

impl Upstream {
    /// No connections yet.
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self {
            resolver,
            pool: Arc::default(),
        }
    }

    /// What an upstream speaks to a client that offers `offered`: asks it, once in a while.
    /// The connection made for asking is kept for the requests to come.
    pub async fn negotiate(
        &self,
        endpoint: &Endpoint,
        offered: &[Vec<u8>],
    ) -> Result<HttpVersion, UpstreamError> {
        let offers = |name: &[u8]| offered.iter().any(|offer| offer == name);
        if !offers(H2) {
            return Ok(HttpVersion::Http1);
        }
        if !offers(HTTP1) {
            return Ok(HttpVersion::Http2);
        }
        if let Some(version) = self.pool.known_version(endpoint) {
            return Ok(version);
        }
        let dialled = Box::pin(dial::dial(&self.resolver, endpoint, None)).await?;
        let version = dialled.version();
        self.pool.learn_version(endpoint, version);
        let key = PoolKey::new(endpoint, version);
        match dialled {
            Dialled::Http1(sender) => self.pool.put_http1(key, sender, Instant::now()),
            Dialled::Http2(sender) => self.pool.put_http2(key, sender),
        }
        Ok(version)
    }

    /// Sends a request and returns the answer as soon as its head is there.
    ///
    /// A request is sent a second time only when nothing of it went out on a connection that
    /// the upstream had closed meanwhile.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        version: HttpVersion,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let patience = patience(&request);
        let (body, progress) = {
            let (head, body) = request.into_parts();
            let (body, progress) = RequestBody::new(body);
            (Request::from_parts(head, body), progress)
        };
        let mut request = body;
        match version {
            HttpVersion::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                self.send_http1(endpoint, request, progress, patience).await
            }
            HttpVersion::Http2 => {
                *request.version_mut() = Version::HTTP_2;
                self.send_http2(endpoint, request, progress, patience).await
            }
        }
    }

    async fn send_http1(
        &self,
        endpoint: &Endpoint,
        mut request: Request<RequestBody>,
        progress: Arc<Progress>,
        patience: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        let key = PoolKey::new(endpoint, HttpVersion::Http1);
        loop {
            let (mut sender, since, reused) = match self.pool.take_http1(&key) {
                Some((sender, since)) => (sender, since, true),
                None => match Box::pin(dial::dial(
                    &self.resolver,
                    endpoint,
                    Some(HttpVersion::Http1),
                ))
                .await?
                {
                    Dialled::Http1(sender) => (sender, Instant::now(), false),
                    Dialled::Http2(_) => return Err(UpstreamError::version(endpoint, "http/1.1")),
                },
            };
            let sent = sender.try_send_request(request);
            match head(endpoint, sent, &progress, patience).await? {
                Ok(mut response) => {
                    if !progress.is_done() {
                        response.extensions_mut().insert(RequestUnread);
                    }
                    let give_back =
                        pool::GiveBack::new(Arc::clone(&self.pool), key, sender, since, progress);
                    return Ok(response.map(|body| body::response(body, Some(give_back))));
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(UpstreamError::http(endpoint, &failed.into_error())),
                },
            }
        }
    }

    async fn send_http2(
        &self,
        endpoint: &Endpoint,
        mut request: Request<RequestBody>,
        progress: Arc<Progress>,
        patience: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        let key = PoolKey::new(endpoint, HttpVersion::Http2);
        loop {
            let (mut sender, reused) = self
                .pool
                .http2(&key, || async {
                    match Box::pin(dial::dial(
                        &self.resolver,
                        endpoint,
                        Some(HttpVersion::Http2),
                    ))
                    .await?
                    {
                        Dialled::Http2(sender) => Ok(sender),
                        Dialled::Http1(_) => Err(UpstreamError::version(endpoint, "h2")),
                    }
                })
                .await?;
            let sent = sender.try_send_request(request);
            match head(endpoint, sent, &progress, patience).await? {
                Ok(response) => return Ok(response.map(|body| body::response(body, None))),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => {
                        self.pool.drop_http2(&key);
                        request = unsent;
                    }
                    _ => return Err(UpstreamError::http(endpoint, &failed.into_error())),
                },
            }
        }
    }
}

/// Waits for an answer's head. The time-out counts from the last sign of progress of the
/// request's body, so a slow upload is not taken for a silent upstream.
async fn head<T>(
    endpoint: &Endpoint,
    answer: impl Future<Output = T>,
    progress: &Progress,
    patience: Duration,
) -> Result<T, UpstreamError> {
    let mut answer = std::pin::pin!(answer);
    let mut seen = progress.bytes();
    loop {
        if let Ok(done) = timeout(patience, &mut answer).await {
            return Ok(done);
        }
        let now = progress.bytes();
        if now == seen {
            return Err(UpstreamError::silent(endpoint, patience));
        }
        seen = now;
    }
}

fn patience(request: &Request<Body>) -> Duration {
    let commits = matches!(
        *request.method(),
        Method::PUT | Method::POST | Method::PATCH
    );
    if commits && !request.body().is_end_stream() || *request.method() == Method::PUT {
        limits::FIRST_BYTE_UPLOAD
    } else {
        limits::FIRST_BYTE
    }
}

/// Port and scheme as they appear in a URI; the default port is left out.
pub fn authority(address: &Address) -> String {
    let default = match address.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = if address.host.contains(':') {
        format!("[{}]", address.host)
    } else {
        address.host.clone()
    };
    if address.port == default {
        host
    } else {
        format!("{host}:{}", address.port)
    }
}
