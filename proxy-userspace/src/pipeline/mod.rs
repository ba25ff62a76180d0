//! The one pipeline that every request goes through, whichever way it came in:
//!
//! authorize → access rules → hygiene → inject → upstream → response

mod generated;
mod refusals;
mod scrub;
mod stop;
mod switch;
mod verdict;

pub use switch::Tunnel;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, UPGRADE, WWW_AUTHENTICATE},
    request::Parts,
    uri::{PathAndQuery, Scheme as UriScheme},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{sync::Notify, time::timeout};

use refusals::{not_granted, rejected, untimely, unusable};
use stop::Stop;
use switch::Wish;
use verdict::Verdict;

use crate::{
    admission::Slot,
    credential::{
        Plan,
        oci::{Attempt, RegistryAuth, Rejection, Route, answer},
    },
    fetch::Fetcher,
    gate::{self, Refusal, Site, Target},
    limits,
    proxy::Worker,
    state::{ClientAuthorization, Scheme},
    upstream::{self, Body, Endpoint, HttpVersion, UpstreamError},
    workload::Enrolment,
};

/// Whose requests these are, and for which site their connection was made.
pub struct Caller {
    /// Who serves them.
    pub worker: Arc<Worker>,
    /// Who sends them.
    pub workload: Arc<Enrolment>,
    /// What they are for.
    pub site: Arc<Site>,
    /// Counts their connection.
    pub slot: Arc<Slot>,
    /// HTTP version of the connection; the upstream is spoken to in the same.
    pub version: HttpVersion,
    /// Told when the site is not granted any more, so that the connection ends.
    pub revoked: Notify,
    /// What the connection has become.
    tunnel: Mutex<Option<Tunnel>>,
}

impl Caller {
    /// For the requests of one connection.
    pub fn new(
        worker: Arc<Worker>,
        workload: Arc<Enrolment>,
        site: Arc<Site>,
        slot: Arc<Slot>,
        version: HttpVersion,
    ) -> Self {
        Self {
            worker,
            workload,
            site,
            slot,
            version,
            revoked: Notify::new(),
            tunnel: Mutex::default(),
        }
    }

    /// What there is to copy now that the connection speaks HTTP no more.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel().take()
    }

    fn tunnel(&self) -> MutexGuard<'_, Option<Tunnel>> {
        // Nothing panics while it holds the lock.
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site as the workload's grants have it now: both may have changed since the
    /// connection was made. `None`: it is not granted any more.
    fn current_site(&self) -> Option<Arc<Site>> {
        let policies = self.worker.proxy.policies.load();
        let routes = policies.routes(self.workload.policy())?;
        routes.site(self.site.scheme, &self.site.host, self.site.port)
    }

    fn fetcher<'a>(&'a self, target: &'a Target) -> Fetcher<'a> {
        Fetcher::new(&self.worker.upstream, &self.workload.egress, target)
    }
}

/// Answers a request: with the upstream's answer, or with the reason why there is none.
pub async fn handle(caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut wish = Wish::of(&mut head);
    let method = head.method.clone();
    // The query may hold what is nobody's business.
    let path = head.uri.path().to_owned();
    let site = caller.current_site();
    let target = site.as_ref().and_then(|site| site.target(&path).cloned());
    // A client that waits to be told to go on has sent nothing yet.
    let waits = head.headers.contains_key(EXPECT);
    let patience = caller.worker.proxy.tuning.between_frames(&head.headers);
    let mut body = Some(upstream::incoming(body, patience));

    let outcome = if let Some(site) = &site {
        let answer = forward(
            caller,
            site,
            target.as_deref(),
            head,
            wish.as_mut(),
            &mut body,
        )
        .await;
        answer.and_then(|(response, verdict)| Ok((caller.switch(wish, response)?, verdict)))
    } else {
        caller.revoked.notify_one();
        Err(not_granted(caller).into())
    };
    let (mut response, verdict) = match outcome {
        Ok((response, verdict)) => (response, verdict),
        Err(stop) => (
            stop.into_response(caller, target.as_deref()),
            Verdict::Refused,
        ),
    };
    // An upstream's HTTP/1.0 is none of the client's business.
    *response.version_mut() = match caller.version {
        HttpVersion::Http1 => Version::HTTP_11,
        HttpVersion::Http2 => Version::HTTP_2,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return record(caller, target.as_deref(), &method, &path, verdict, response);
    }
    if let Some(unread) = body.filter(|body| !body.is_end_stream()) {
        if !waits {
            Box::pin(drain(unread)).await;
        }
        close_after(&mut response);
    }
    if site.is_none() || caller.workload.is_winding_down() {
        close_after(&mut response);
    }
    record(caller, target.as_deref(), &method, &path, verdict, response)
}

/// Counts and logs what became of a request.
fn record(
    caller: &Caller,
    target: Option<&Target>,
    method: &Method,
    path: &str,
    verdict: Verdict,
    response: Response<Body>,
) -> Response<Body> {
    verdict.count(&caller.worker.proxy.counters);
    tracing::info!(
        target: "postern::access",
        workload = caller.workload.name,
        connector = target.map(|target| target.connector.to_string()),
        host = caller.site.host,
        %method,
        path,
        status = response.status().as_u16(),
        verdict = verdict.name(),
    );
    response
}

/// Answers a request whose head is refused before it is read, and has its connection closed.
pub fn refuse(caller: &Caller, refusal: Refusal) -> Response<Body> {
    let mut response = Stop::from(refusal).into_response(caller, None);
    close_after(&mut response);
    Verdict::Refused.count(&caller.worker.proxy.counters);
    response
}

/// The pipeline.
async fn forward(
    caller: &Caller,
    site: &Site,
    target: Option<&Target>,
    mut head: Parts,
    wish: Option<&mut Wish>,
    body: &mut Option<Body>,
) -> Result<(Response<Body>, Verdict), Stop> {
    // authorize: the connection stands for the workload and the site, its grants are looked up
    gate::check_authority(site, &head)?;
    // hygiene
    gate::check_head(site, &head)?;
    gate::strip_request(&mut head.headers);
    if let Some(wish) = wish {
        wish.pass_on(caller, &mut head)?;
    }
    head.uri = absolute(site, std::mem::take(&mut head.uri))?;

    // inject
    let Some(target) = target else {
        let response = exchange(caller, &site.unclaimed, head, body).await?;
        return Ok((finish(caller, &[], response), Verdict::Plain));
    };
    if !target.usable {
        return Err(unusable(target).into());
    }
    if let Some(refusal) = untimely(target, SystemTime::now()) {
        return Err(refusal.into());
    }
    // What only some requests need is kept out of the future of all, which is moved around.
    if let Some(registry) = target.injector.registry()
        && let Some(answer) = Box::pin(placeholder_token(caller, target, registry, &head)).await
    {
        return Ok((answer, Verdict::Answered));
    }
    let plan = match client_authorization(target, &mut head)? {
        Own::Kept => Plan::Nothing,
        Own::Absent => target.injector.plan(&head.method, &head.uri),
    };
    let secrets;
    let injected = match plan {
        Plan::Nothing => None,
        Plan::Header(value) => {
            head.headers.insert(AUTHORIZATION, value.clone());
            Some(std::slice::from_ref(value))
        }
        Plan::Generated(generated) => {
            let inject = generated::inject(target, generated, &mut head, body);
            secrets = Box::pin(inject).await?;
            Some(&*secrets)
        }
        Plan::Registry(registry) => {
            let request = registry_request(caller, target, registry, head, body);
            return Box::pin(request).await;
        }
    };

    let response = exchange(caller, &target.endpoint, head, body).await?;
    let Some(injected) = injected else {
        return Ok((finish(caller, &[], response), Verdict::Plain));
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        return Err(rejected(target).into());
    }
    Ok((finish(caller, injected, response), Verdict::Injected))
}

/// A request to a registry's API: authorized before the first byte of its body is taken, and
/// repeated where the registry turns out to want another authorization.
async fn registry_request(
    caller: &Caller,
    target: &Target,
    registry: &RegistryAuth,
    mut head: Parts,
    body: &mut Option<Body>,
) -> Result<(Response<Body>, Verdict), Stop> {
    let fetch = caller.fetcher(target);
    let mut attempt = Attempt::new(head.method.clone(), head.uri.clone());
    if *attempt.route() == Route::Ping && matches!(head.method, Method::GET | Method::HEAD) {
        registry.ping(&fetch).await?;
        return Ok((answer::ping().map(upstream::full), Verdict::Answered));
    }
    // Only a request without a body can be sent again.
    let repeatable = body.as_ref().is_some_and(Body::is_end_stream);
    loop {
        let authorization = registry.authorize(&fetch, &mut attempt).await?;
        let verdict = if authorization.is_some() {
            Verdict::Injected
        } else {
            Verdict::Plain
        };
        head.headers.remove(AUTHORIZATION);
        if let Some(value) = &authorization {
            head.headers.insert(AUTHORIZATION, value.clone());
        }
        head.uri = attempt.uri().clone();
        let response = exchange(caller, &target.endpoint, head.clone(), body).await?;

        let status = response.status();
        if status.is_success() {
            registry.answered(&attempt, response.headers());
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            match registry.rejected(&mut attempt, status, response.headers()) {
                Rejection::Repeat if repeatable => continue,
                Rejection::Repeat => {
                    return Ok((
                        answer::repeat_request().map(upstream::full),
                        Verdict::Refused,
                    ));
                }
                // 403 is the registry's own answer to an account without the right.
                Rejection::Refused(_) if status == StatusCode::FORBIDDEN => {}
                Rejection::Refused(error) => return Err(error.into()),
            }
        }
        return Ok((finish(caller, authorization.as_slice(), response), verdict));
    }
}

/// A client that asks the registry's token service itself gets a token that is worth nothing.
async fn placeholder_token(
    caller: &Caller,
    target: &Target,
    registry: &RegistryAuth,
    head: &Parts,
) -> Option<Response<Body>> {
    // Nobody asks for a token without naming what it is for.
    if !matches!(head.method, Method::GET | Method::POST) || !may_ask_for_token(head) {
        return None;
    }
    // Whether the path is the token service's is only known once the registry was asked.
    if registry.realm().is_none() {
        let _ = registry.ping(&caller.fetcher(target)).await;
    }
    registry
        .is_realm(&head.uri)
        .then(|| answer::placeholder_token().map(upstream::full))
}

/// A token request names its service or scope in the query, or posts a form.
fn may_ask_for_token(head: &Parts) -> bool {
    let query = head.uri.query().unwrap_or_default();
    let form = head.headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    form || query.contains("service=") || query.contains("scope=")
}

/// Sends a request and takes the answer as it is.
async fn exchange(
    caller: &Caller,
    endpoint: &Endpoint,
    head: Parts,
    body: &mut Option<Body>,
) -> Result<Response<Body>, UpstreamError> {
    let body = body.take().unwrap_or_else(upstream::empty);
    let request = Request::from_parts(head, body);
    caller
        .worker
        .upstream
        .send(&caller.workload.egress, endpoint, caller.version, request)
        .await
}

/// Prepares an upstream's answer for the client; `injected` is what must not be in it.
fn finish(
    caller: &Caller,
    injected: &[HeaderValue],
    mut response: Response<Body>,
) -> Response<Body> {
    let unread = response
        .extensions_mut()
        .remove::<upstream::RequestUnread>();
    let protocol = response.headers().get(UPGRADE).cloned();
    gate::strip_response(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(protocol) = protocol
    {
        response.headers_mut().insert(UPGRADE, protocol);
        let upgrade = HeaderValue::from_static("upgrade");
        response.headers_mut().insert(CONNECTION, upgrade);
    }
    let mut response = scrub::scrub(caller, injected, response);
    if response.status() != StatusCode::UNAUTHORIZED {
        response.headers_mut().remove(WWW_AUTHENTICATE);
    }
    // The rest of the request is still on its way, and nobody will read it.
    if unread.is_some() {
        close_after(&mut response);
    }
    response
}

/// Has the connection closed after an answer. HTTP/2 ends the stream by itself.
fn close_after(response: &mut Response<Body>) {
    if response.version() < Version::HTTP_2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Throws away what a client is still sending, within bounds: closing a connection with
/// unread bytes resets it, and the client would never see the answer.
async fn drain(mut body: Body) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > limits::DRAIN_BYTES {
                return;
            }
        }
    };
    // What did not come in time is not waited for.
    let _ = timeout(limits::DRAIN_TIME, read).await;
}

enum Own {
    /// The client's own `Authorization` is to be sent.
    Kept,
    /// There is none, any more.
    Absent,
}

/// Applies `spec.interception.clientAuthorization`.
fn client_authorization(target: &Target, head: &mut Parts) -> Result<Own, Refusal> {
    if !head.headers.contains_key(AUTHORIZATION) {
        return Ok(Own::Absent);
    }
    match target.connector.client_authorization {
        ClientAuthorization::Keep => Ok(Own::Kept),
        ClientAuthorization::Replace => {
            head.headers.remove(AUTHORIZATION);
            Ok(Own::Absent)
        }
        ClientAuthorization::Reject => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "connector {} takes no Authorization from clients; remove the credential from \
                 the client's configuration",
                target.connector
            ),
        )),
    }
}

/// The request's target in the form that names everything (RFC 9112, section 3.2.2).
fn absolute(site: &Site, uri: Uri) -> Result<Uri, Refusal> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(match site.scheme {
        Scheme::Http => UriScheme::HTTP,
        Scheme::Https => UriScheme::HTTPS,
    });
    parts.authority.clone_from(&site.authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    Uri::from_parts(parts).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the request target cannot be forwarded: {error}"),
        )
    })
}
