//! How the logic reaches the registry and its token service.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response};

use super::error::{Cause, Party};

/// Longest answer body that [`Fetch`] hands over, in bytes.
///
/// The largest tokens seen are about 10 KiB; the cap keeps a hostile token service from
/// filling the node's memory.
pub const MAX_ANSWER: usize = 64 * 1024;

/// How long one exchange may take, body included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends one request and collects its answer.
///
/// URIs are absolute. An implementation verifies TLS (the Connector's own roots included),
/// does **not** follow redirects, stops reading at [`MAX_ANSWER`] with an error, and logs
/// neither header values nor bodies: they hold the credential and the tokens.
pub trait Fetch: Send + Sync {
    /// Sends `request`; the answer's body is complete.
    fn fetch(
        &self,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<Bytes>, FetchError>> + Send;
}

/// Why there is no answer at all. Its text goes into logs and to clients.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(String);

impl FetchError {
    /// `reason` must hold neither header values nor bodies.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// Sends `request` to `party` and sorts out the answers that nobody can do anything with:
/// none, too late, too long, redirects, 429 and 5xx.
///
/// A redirect is never followed: the credential was meant for the address that was checked,
/// and following without it cannot yield what is wanted.
pub(super) async fn exchange(
    fetch: &impl Fetch,
    party: &Party,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, Cause> {
    let agent = HeaderValue::from_static(concat!("postern/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    let answer = tokio::time::timeout(EXCHANGE_TIMEOUT, fetch.fetch(request))
        .await
        .map_err(|_| FetchError(format!("no answer within {} s", EXCHANGE_TIMEOUT.as_secs())))
        .flatten()
        .map_err(|reason| Cause::Unreachable {
            by: party.clone(),
            reason,
        })?;
    if answer.body().len() > MAX_ANSWER {
        return Err(Cause::BadAnswer {
            by: party.clone(),
            reason: "it is longer than 64 KiB",
        });
    }
    let (by, status) = (party.clone(), answer.status());
    match status.as_u16() {
        429 => Err(Cause::Busy {
            by,
            retry_after: retry_after(answer.headers()),
        }),
        300..400 => Err(Cause::Redirected { by, status }),
        500.. => Err(Cause::Unavailable { by, status }),
        _ => Ok(answer),
    }
}

/// `Retry-After` in its form of seconds; a date would need the peer's clock to agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
