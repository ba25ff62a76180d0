//! Where it goes: the Connector's own address, resolved and verified by Postern, whatever
//! the workload dialled.

mod answer;
mod body;
mod dial;
mod error;
mod http1;
mod http2;
mod lane;
mod pool;
mod resolve;
mod silence;
mod splice;
mod streams;
#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, empty, full, incoming};
pub use error::{Kind as ErrorKind, UpstreamError};
pub use resolve::{ResolveError, Resolver};
pub use silence::Silence;
pub use splice::{Passed, Pipes, relay, reset, splice};

use std::{
    collections::BTreeSet,
    future::{Future, poll_fn},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{Entry, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body as _;
use tokio::time::Instant;

use crate::{
    limits::{self, Tuning},
    state::{Address, ConnectorId},
    tls::{H2, HTTP1, UpstreamTls},
    workload::{Egress, EgressId},
};
use body::{Progress, RequestBody};
use dial::Dialled;
use http1::GiveBack;
use http2::Http2;
use lane::{Lane, Place, Stream};
use pool::Pool;

/// An upstream as far as connections to it are concerned. Connections are shared by requests
/// to equal endpoints of one Connector on behalf of one workload, never between Connectors or
/// workloads.
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

/// Goes with an answer that changes the protocol: leave to use its connection, until it is
/// dropped.
#[derive(Clone, Debug)]
pub struct InUse {
    _place: Arc<Place>,
}

impl InUse {
    fn new(place: Place) -> Self {
        Self {
            _place: Arc::new(place),
        }
    }
}

/// One worker's connections to upstreams.
#[derive(Debug)]
pub struct Upstream {
    resolver: Arc<Resolver>,
    pool: Arc<Pool>,
    tuning: Tuning,
}

impl Upstream {
    /// No connections yet.
    pub fn new(resolver: Arc<Resolver>, tuning: Tuning) -> Self {
        Self {
            resolver,
            pool: Pool::new(tuning),
            tuning,
        }
    }

    /// Drops what is kept for a workload that is gone.
    pub fn forget(&self, egress: &EgressId) {
        self.pool.forget(egress);
    }

    /// Drops what is kept for Connectors that are gone or have changed.
    pub fn forget_connectors(&self, gone: &BTreeSet<ConnectorId>) {
        self.pool.forget_connectors(gone);
    }

    /// What an upstream speaks to a client that offers `offered`: asks it, once in a while.
    /// The connection made for asking is kept for the requests to come.
    pub async fn negotiate(
        &self,
        egress: &Egress,
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
        let lane = self.pool.lane(egress, endpoint);
        if let Some(version) = lane.known_version() {
            return Ok(version);
        }
        let dialled = self.dial(&lane, egress, endpoint, None).await?;
        let version = dialled.version();
        lane.learn_version(version);
        match dialled {
            Dialled::Http1(connection) => lane.keep(connection),
            Dialled::Http2(connection) => lane.share(connection),
        }
        Ok(version)
    }

    /// Sends a request and returns the answer as soon as its head is there.
    ///
    /// A request is sent a second time only on a connection that was kept from earlier and
    /// turned out to be closed: when nothing of it went out, or when it has no body and a
    /// method that may be repeated (RFC 9110, section 9.2.2). Such a one is sent again as well when
    /// an upstream ends an HTTP/2 connection before it.
    pub async fn send(
        &self,
        egress: &Egress,
        endpoint: &Endpoint,
        version: HttpVersion,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let patience = self.patience(&request);
        let (mut head, body) = request.into_parts();
        let (body, progress) = RequestBody::new(body);
        let lane = self.pool.lane(egress, endpoint);
        let sent = match version {
            HttpVersion::Http1 => {
                origin_form(endpoint, &mut head, &body);
                let request = Request::from_parts(head, body);
                let progress = Arc::clone(&progress);
                self.send_http1(&lane, egress, endpoint, request, progress, patience)
                    .await
            }
            HttpVersion::Http2 => {
                head.version = Version::HTTP_2;
                let request = Request::from_parts(head, body);
                self.send_http2(&lane, egress, endpoint, request, &progress, patience)
                    .await
            }
        };
        // Whatever the upstream's side made of it, the client broke off first.
        sent.map_err(|error| progress.fault().map_or(error, UpstreamError::client))
    }

    async fn send_http1(
        &self,
        lane: &Arc<Lane>,
        egress: &Egress,
        endpoint: &Endpoint,
        mut request: Request<RequestBody>,
        progress: Arc<Progress>,
        patience: Patience,
    ) -> Result<Response<Body>, UpstreamError> {
        let place = lane.enter(endpoint).await?;
        let mut kept = place.take();
        loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match self
                    .dial(lane, egress, endpoint, Some(HttpVersion::Http1))
                    .await?
                {
                    Dialled::Http1(connection) => connection,
                    Dialled::Http2(_) => return Err(UpstreamError::version(endpoint, "http/1.1")),
                },
            };
            let spare = was_kept.then(|| Spare::of(&request)).flatten();
            connection.begin();
            let sent = connection.sender.try_send_request(request);
            let silence = &mut connection.silence;
            let answer = head(endpoint, sent, &progress, patience, silence).await?;
            let mut failed = match answer {
                Ok(mut response) => {
                    if !progress.is_done() {
                        response.extensions_mut().insert(RequestUnread);
                    }
                    let patience = self.tuning.between_frames(response.headers());
                    let give_back = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        // It never comes back, and is in use for as long as it lives.
                        connection.end();
                        let in_use = InUse::new(place);
                        response.extensions_mut().insert(in_use);
                        None
                    } else {
                        Some(GiveBack::new(connection, progress, place))
                    };
                    return Ok(response.map(|body| answer::body(body, give_back, patience)));
                }
                Err(failed) => failed,
            };
            // The next round dials.
            request = match failed.take_message() {
                Some(unsent) if was_kept => unsent,
                _ => spare
                    .ok_or_else(|| UpstreamError::http(endpoint, &failed.into_error()))?
                    .into_request(),
            };
        }
    }

    async fn send_http2(
        &self,
        lane: &Arc<Lane>,
        egress: &Egress,
        endpoint: &Endpoint,
        mut request: Request<RequestBody>,
        progress: &Progress,
        patience: Patience,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut times = 0;
        loop {
            let dial = || self.dial_http2(lane, egress, endpoint);
            let Stream {
                mut sender,
                was_kept,
                place,
            } = lane.stream(endpoint, dial).await?;
            times += 1;
            let spare = (times < limits::SENT_AGAIN).then(|| Spare::of(&request));
            request.body_mut().set_stream(Some(Arc::clone(&place)));
            let sent = sender.try_send_request(request);
            let mut silence = Silence::new(patience.answer);
            let answer = head(endpoint, sent, progress, patience, &mut silence).await;
            let mut failed = match answer {
                Ok(Ok(response)) => {
                    let patience = self.tuning.between_frames(response.headers());
                    return Ok(response.map(|body| answer::watched_body(body, place, patience)));
                }
                Ok(Err(failed)) => failed,
                Err(silent) => {
                    // After that long pings have ended a connection that is dead.
                    let alive = limits::H2_PING + limits::H2_PONG;
                    if patience.answer.min(patience.body) < alive || place.is_forbidden() {
                        place.give_up();
                    }
                    return Err(silent);
                }
            };
            let unsent = failed.take_message();
            let error = failed.into_error();
            // One stream that was refused says nothing about the others.
            let is_unseen = http2::is_unseen(&error);
            if sender.is_closed() || unsent.is_some() || is_unseen {
                place.give_up();
            }
            request = match unsent {
                Some(mut unsent) if was_kept => {
                    // Whoever waits for another stream is not on this one.
                    unsent.body_mut().set_stream(None);
                    unsent
                }
                // Not more than once where it may have been looked at: an upstream may refuse
                // every stream.
                _ if is_unseen || was_kept && times == 1 => spare
                    .flatten()
                    .ok_or_else(|| UpstreamError::http(endpoint, &error))?
                    .into_request(),
                _ => return Err(UpstreamError::http(endpoint, &error)),
            };
        }
    }

    async fn dial_http2(
        &self,
        lane: &Lane,
        egress: &Egress,
        endpoint: &Endpoint,
    ) -> Result<Http2, UpstreamError> {
        let version = Some(HttpVersion::Http2);
        match self.dial(lane, egress, endpoint, version).await? {
            Dialled::Http2(connection) => Ok(connection),
            Dialled::Http1(_) => Err(UpstreamError::version(endpoint, "h2")),
        }
    }

    fn patience(&self, request: &Request<Body>) -> Patience {
        let commits = matches!(
            *request.method(),
            Method::PUT | Method::POST | Method::PATCH
        );
        let uploads = commits && !request.body().is_end_stream();
        Patience {
            answer: if uploads || *request.method() == Method::PUT {
                self.tuning.first_byte_upload
            } else {
                self.tuning.first_byte
            },
            body: self.tuning.between_frames(request.headers()),
        }
    }

    async fn dial(
        &self,
        lane: &Lane,
        egress: &Egress,
        endpoint: &Endpoint,
        version: Option<HttpVersion>,
    ) -> Result<Dialled, UpstreamError> {
        // Rare, and large: kept out of the futures of requests.
        let dial = dial::dial(&self.resolver, egress, endpoint, version, lane.news());
        Box::pin(dial).await
    }
}

/// The form in which an origin server expects requests (RFC 9112, section 3.2.1).
fn origin_form(endpoint: &Endpoint, head: &mut Parts, body: &RequestBody) {
    head.version = Version::HTTP_11;
    if let Entry::Vacant(host) = head.headers.entry(HOST)
        && let Ok(value) = endpoint.address.authority().parse()
    {
        host.insert(value);
    }
    head.uri = match head.uri.path_and_query() {
        // The one target that belongs to no resource (section 3.2.4).
        Some(target) if head.method == Method::OPTIONS && target.path() == "*" => {
            Uri::from_static("*")
        }
        Some(target) => Uri::from(target.clone()),
        None => Uri::from_static("/"),
    };
    // Without it hyper takes a GET of unknown length for one without a body.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// What it takes to send a request a second time, whose body is empty.
struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

impl Spare {
    /// Of a request that may be sent twice.
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        let harmless = request.method().is_idempotent() && request.body().is_end_stream();
        harmless.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::new(empty()).0);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        request
    }
}

/// How long an upstream may do nothing.
#[derive(Clone, Copy)]
struct Patience {
    /// Not answer, from the last byte of the body that it took.
    answer: Duration,
    /// Take nothing of a body that is there; at most twice that.
    body: Duration,
}

/// Waits for an answer's head. The time-out counts from the last sign of progress of the
/// request's body, so a slow upload is not taken for a silent upstream.
async fn head<T>(
    endpoint: &Endpoint,
    answer: impl Future<Output = T>,
    progress: &Progress,
    patience: Patience,
    silence: &mut Silence,
) -> Result<T, UpstreamError> {
    let mut answer = std::pin::pin!(answer);
    let (mut taken, mut untaken) = (progress.bytes(), progress.untaken());
    let mut since = Instant::now();
    silence.set_limit(patience.answer.min(patience.body));
    // Whoever used it before may have given up in the middle of a wait.
    silence.broken();
    poll_fn(|context| {
        if let Poll::Ready(done) = answer.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        loop {
            ready!(silence.poll(context));
            let now = progress.bytes();
            if now != taken {
                since = Instant::now();
            } else if since.elapsed() >= patience.answer {
                return Poll::Ready(Err(UpstreamError::silent(endpoint, patience.answer)));
            } else if untaken.is_some()
                && untaken == progress.untaken()
                && since.elapsed() >= patience.body
            {
                return Poll::Ready(Err(UpstreamError::stalled(endpoint, patience.body)));
            }
            (taken, untaken) = (now, progress.untaken());
            silence.broken();
        }
    })
    .await
}
