//! What a registry asks of those who talk to it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use url::{Host, Url};

use super::challenge::Challenge;
use super::error::{Cause, Party};
use super::fetch::{Fetch, exchange};
use super::flight::{Age, Aging};
use super::realm;
use crate::state::{Address, Scheme};

/// How long the answer to our own ping is believed.
const PING_LIFE: Duration = Duration::from_hours(1);

/// How a registry wants to be authenticated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Not at all.
    Nothing,
    /// By the credential itself.
    Basic,
    /// By a token from `realm`, which is verified.
    Token { realm: Url, service: Option<String> },
}

impl Demand {
    /// What the challenge of a 401 means; `None` when it holds none that is supported.
    pub(super) fn of(headers: &HeaderMap, registry: &Address) -> Result<Option<Self>, Cause> {
        Ok(match Challenge::of(headers) {
            None => None,
            Some(Challenge::Basic) => Some(Self::Basic),
            Some(Challenge::Bearer { realm, service, .. }) => Some(Self::Token {
                realm: realm::verify(&realm, registry)?,
                service,
            }),
        })
    }

    /// What our own `GET /v2/` says.
    pub(super) async fn ping(fetch: &impl Fetch, registry: &Address) -> Result<Self, Cause> {
        Self::read(&ping(fetch, registry, None).await?, registry)
    }

    /// What the answer to an anonymous `GET /v2/` says.
    pub(super) fn read(answer: &Response<Bytes>, registry: &Address) -> Result<Self, Cause> {
        match answer.status().as_u16() {
            // Some registries serve everything but the ping itself.
            200 | 404 => Ok(Self::Nothing),
            401 | 403 => Self::of(answer.headers(), registry)?.ok_or(Cause::NoChallenge),
            _ => Err(Cause::Unexpected {
                by: Party::Registry,
                status: answer.status(),
            }),
        }
    }

    /// Whether a challenge in the answer to a *client's* request may be taken for this one.
    ///
    /// What a client asks for may be content that somebody else controls, such as a
    /// repository that the registry fetches from elsewhere; so such an answer never chooses
    /// another host to send the credential to.
    pub(super) fn stays_at(&self, registry: &Address) -> bool {
        match self {
            Self::Nothing | Self::Basic => true,
            Self::Token { realm, .. } => realm::is_same_host(realm, registry),
        }
    }
}

/// A demand, and how it came to be known.
#[derive(Debug)]
pub(super) struct Learned {
    pub(super) demand: Demand,
    /// When our ping said so; `None` if the answer to a request did, which a ping that says
    /// less must not undo.
    pub(super) pinged: Option<Instant>,
}

impl Aging for Learned {
    fn age(&self, now: Instant) -> Age {
        match self.pinged {
            Some(at) if now.saturating_duration_since(at) >= PING_LIFE => Age::Stale,
            _ => Age::Fresh,
        }
    }
}

/// `GET /v2/`, at the root of the host: the specification puts the API there, whatever path
/// the Connector's address has.
pub(super) async fn ping(
    fetch: &impl Fetch,
    registry: &Address,
    authorization: Option<HeaderValue>,
) -> Result<Response<Bytes>, Cause> {
    let uri = format!("{}/v2/", origin(registry));
    let reason = "the Connector's address does not make a valid URL";
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = Uri::try_from(uri).map_err(|_| Cause::BadAnswer {
        by: Party::Registry,
        reason,
    })?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    exchange(fetch, &Party::Registry, request).await
}

/// Scheme, host and port of a registry, the port only when it is not the scheme's own.
pub(super) fn origin(registry: &Address) -> String {
    let (scheme, own_port) = match registry.scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    let host = match registry.host.parse() {
        Ok(ip) => Host::<&str>::Ipv6(ip),
        Err(_) => Host::Domain(registry.host.as_str()),
    };
    if registry.port == own_port {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}:{}", registry.port)
    }
}
