//! From HTTP requests to the verbs and back.

mod objects;
mod query;
mod route;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::auth::{API_AUDIENCE, Identity};
use crate::error::{ApiError, Result};
use crate::handle::Handle;
use crate::journal;
use crate::{discovery, openapi, rbac};
use query::Query;
use route::Route;
pub(crate) use stream::Answer;

/// As large as an API server takes.
const BODY_LIMIT: usize = 3 << 20;

/// Answers requests.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) handle: Handle,
    /// Who sends a request without a token; nobody may if there is none.
    pub(crate) anonymous: Option<Identity>,
    pub(crate) enforce_rbac: bool,
    pub(crate) bookmark_interval: Duration,
    pub(crate) address: String,
}

/// A request, read and understood as far as all requests are.
struct Call {
    method: String,
    path: String,
    query: Query,
    route: Route,
    verb: &'static str,
    who: Identity,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn header(&self, name: &HeaderName) -> &str {
        header(&self.headers, name)
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Service {
    /// Answers one request; a refusal is an answer as well.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let mut entry = journal::Entry {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            user: String::new(),
            verb: String::new(),
            resource: String::new(),
            status: 0,
            user_agent: header(&parts.headers, &USER_AGENT).to_owned(),
        };
        let response = match self.handle_request(parts.headers, body, &mut entry).await {
            Ok(response) => response,
            Err(error) => refusal(&error),
        };
        entry.status = response.status().as_u16();
        self.handle.journal.push(entry);
        response
    }

    async fn handle_request(&self, headers: HeaderMap, body: Incoming, entry: &mut journal::Entry) -> Result<Response<Answer>> {
        let who = self.authenticate(&headers)?;
        entry.user.clone_from(&who.user);
        let query = Query::parse(&entry.query);
        let route = route::route(&self.handle.cluster.read().registry, &entry.path);
        let (route, verb) = match route {
            Ok(Route::Object(target)) => {
                let verb = route::verb(&entry.method, &target, query.watch());
                entry.resource.clone_from(&target.resource.plural);
                (Ok(Route::Object(target)), verb)
            }
            other => (other, if entry.method == "GET" { Some("get") } else { None }),
        };
        entry.verb = verb.unwrap_or_default().to_owned();
        let (delay, fault) = self.handle.faults.of(&entry.verb, &entry.resource);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(fault) = fault {
            return Err(fault.error());
        }
        let route = route?;
        let verb = verb.ok_or_else(ApiError::method_not_allowed)?;
        self.authorize(&route, verb, &who, &entry.path)?;
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|_| {
            ApiError::new(413, "RequestEntityTooLarge", format!("limit is {BODY_LIMIT}, or the body ended early"))
        })?;
        let (method, path) = (entry.method.clone(), entry.path.clone());
        let call = Call { method, path, query, route, verb, who, headers, body: body.to_bytes() };
        match &call.route {
            Route::Object(target) => self.object(&call, target),
            Route::Other => self.other(&call),
        }
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity> {
        let Some(credential) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return self.anonymous.clone().ok_or_else(ApiError::unauthorized);
        };
        let token = credential.strip_prefix("Bearer ").unwrap_or_default().trim();
        let state = self.handle.cluster.read();
        let found = state.tokens.check(token, &[API_AUDIENCE.to_owned()]);
        found.map(|(identity, _)| identity.clone()).ok_or_else(ApiError::unauthorized)
    }

    fn authorize(&self, route: &Route, verb: &str, who: &Identity, path: &str) -> Result<()> {
        let what = route::attributes(route, verb, path);
        if !self.enforce_rbac || rbac::allowed(&self.handle.cluster.read(), who, &what).is_some() {
            return Ok(());
        }
        let user = &who.user;
        let Route::Object(target) = route else {
            return Err(ApiError::forbidden(format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"")));
        };
        let resource = &target.resource;
        let full = if what.subresource.is_empty() { resource.plural.clone() } else { format!("{}/{}", resource.plural, what.subresource) };
        let qualified = if resource.group.is_empty() { resource.plural.clone() } else { resource.qualified() };
        let named = if what.name.is_empty() { String::new() } else { format!(" \"{}\"", what.name) };
        let scope = if what.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace \"{}\"", what.namespace) };
        let mut error = ApiError::forbidden(format!(
            "{qualified}{named} is forbidden: User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{}\" {scope}",
            resource.group
        ));
        *error.details = json!({"name": what.name, "group": resource.group, "kind": resource.plural});
        Err(error)
    }

    /// Discovery, OpenAPI and health.
    fn other(&self, call: &Call) -> Result<Response<Answer>> {
        let state = self.handle.cluster.read();
        let registry = &state.registry;
        let accept = call.header(&ACCEPT);
        let parts: Vec<&str> = call.path.split('/').filter(|part| !part.is_empty()).collect();
        let aggregated = discovery::wants_aggregated(accept) && matches!(parts.as_slice(), ["api" | "apis"]);
        if aggregated {
            let document = discovery::aggregated(registry, parts == ["api"]);
            let mut response = whole(StatusCode::OK, &document);
            let kind = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            return Ok(response);
        }
        let document = match parts.as_slice() {
            [] => json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            ["version"] => discovery::version(),
            ["healthz" | "livez" | "readyz", ..] => {
                let mut response = Response::new(Answer::Whole(Some(Bytes::from_static(b"ok"))));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                return Ok(response);
            }
            ["api"] => discovery::core_versions(&self.address),
            ["apis"] => discovery::groups(registry),
            ["api", version] => discovery::resources(registry, "", version)?,
            ["apis", group] => discovery::group(registry, group)?,
            ["apis", group, version] => discovery::resources(registry, group, version)?,
            ["openapi", "v3"] => openapi::index(registry),
            ["openapi", "v3", path @ ..] => openapi::document(registry, &path.join("/"))?,
            ["openapi", "v2"] if accept.contains("protobuf") && !accept.contains("json") => {
                return Err(ApiError::not_acceptable());
            }
            ["openapi", "v2"] => openapi::legacy(registry),
            _ => return Err(ApiError::no_such_path()),
        };
        Ok(whole(StatusCode::OK, &document))
    }
}

/// A JSON document.
fn whole(status: StatusCode, document: &Value) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(Bytes::from(document.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(error: &ApiError) -> Response<Answer> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = whole(status, &error.status());
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
