//! What clients are answered instead of the registry.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::error::{Cause, OciError};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Stands where a token is expected, and opens nothing.
const PLACEHOLDER: &str = "postern-placeholder";

/// Error codes of the distribution specification that the proxy uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The operation is refused.
    Denied,
    /// The registry or its token service cannot be used now.
    Unavailable,
    /// A rate limit.
    TooManyRequests,
    /// The request itself is at fault.
    Unsupported,
}

impl Code {
    /// The code that goes with a status of the proxy's own.
    pub fn for_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Denied,
            429 => Self::TooManyRequests,
            400..500 => Self::Unsupported,
            _ => Self::Unavailable,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Denied => "DENIED",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unsupported => "UNSUPPORTED",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Denied => "requested access to the resource is denied",
            Self::Unavailable => "service unavailable",
            Self::TooManyRequests => "too many requests",
            Self::Unsupported => "the operation is unsupported",
        }
    }
}

/// 200 to a client's `GET /v2/`: no authentication is asked for.
pub fn ping() -> Response<Bytes> {
    json_answer(StatusCode::OK, Bytes::from_static(b"{}"))
}

/// 200 to a client that asks the token service itself: the token is a placeholder, which the
/// proxy replaces in each request.
pub fn placeholder_token() -> Response<Bytes> {
    let body =
        json!({ "token": PLACEHOLDER, "access_token": PLACEHOLDER, "expires_in": 300 }).to_string();
    let mut answer = json_answer(StatusCode::OK, body.into());
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// 503 with `Retry-After: 0`: the token was refused after parts of the body had been read, so
/// the client itself has to repeat the request, which will get a new token.
pub fn repeat_request() -> Response<Bytes> {
    let detail = "the registry refused a cached token while the request's body was on its way; \
                  repeat the request";
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, detail);
    answer
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("0"));
    answer
}

/// The answer to a request that failed with `failure`; `detail` is its whole text.
///
/// 403 when the account lacks the right, 429 when a rate limit was met, 503 when repeating
/// may help, 502 when a person has to act. Never 401: the client has no credential to offer.
pub fn failure(failure: &OciError) -> Response<Bytes> {
    let (status, code) = match failure.cause() {
        Cause::Denied { .. }
        | Cause::CredentialMissing { .. }
        | Cause::CredentialRejected { .. } => (StatusCode::FORBIDDEN, Code::Denied),
        Cause::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
        Cause::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Cause::Unreachable { .. }
        | Cause::Redirected { .. }
        | Cause::Unexpected { .. }
        | Cause::BadAnswer { .. }
        | Cause::NoChallenge
        | Cause::UnsafeRealm(_)
        | Cause::CredentialUnfit
        | Cause::CredentialUnsendable => (StatusCode::BAD_GATEWAY, Code::Unavailable),
    };
    let mut answer = error(status, code, &failure.to_string());
    if let Cause::Busy { retry_after, .. } = failure.cause() {
        let seconds = retry_after.unwrap_or(Duration::from_secs(1)).as_secs();
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// An error body of the distribution specification; `detail` says why and what to do.
pub fn error(status: StatusCode, code: Code, detail: &str) -> Response<Bytes> {
    let error = json!({ "code": code.name(), "message": code.message(), "detail": detail });
    json_answer(status, json!({ "errors": [error] }).to_string().into())
}

fn json_answer(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::error::Party;
    use super::*;

    fn body(answer: &Response<Bytes>) -> Value {
        serde_json::from_slice(answer.body()).unwrap()
    }

    fn answer_to(cause: Cause) -> Response<Bytes> {
        let (connector, registry) = ("team/registry".into(), "registry.example.com".into());
        failure(&OciError {
            connector,
            registry,
            cause,
        })
    }

    #[test]
    fn the_ping_is_200_with_the_version_header_that_old_clients_look_for() {
        let answer = ping();
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.headers()["docker-distribution-api-version"],
            "registry/2.0"
        );
        assert_eq!(body(&answer), json!({}));
    }

    #[test]
    fn the_placeholder_stands_in_both_fields_and_lives_long_enough_for_old_clients() {
        let body = body(&placeholder_token());
        assert_eq!(body["token"], body["access_token"]);
        assert_eq!(body["expires_in"], 300);
    }

    #[test]
    fn a_rejected_credential_of_ours_is_403_and_never_401() {
        let (by, status) = (Party::Registry, StatusCode::UNAUTHORIZED);
        let answer = answer_to(Cause::CredentialRejected { by, status });
        assert_eq!(answer.status(), 403);
        let error = &body(&answer)["errors"][0];
        assert_eq!(error["code"], "DENIED");
        let detail = error["detail"].as_str().unwrap();
        assert!(
            detail.contains("team/registry") && detail.contains("Secret"),
            "{detail}"
        );
    }

    #[test]
    fn a_missing_right_is_403_denied() {
        let (by, status) = (Party::Registry, StatusCode::UNAUTHORIZED);
        let answer = answer_to(Cause::Denied { by, status });
        assert_eq!(
            (
                answer.status().as_u16(),
                body(&answer)["errors"][0]["code"].as_str()
            ),
            (403, Some("DENIED"))
        );
    }

    #[test]
    fn a_rate_limit_keeps_its_retry_after() {
        let retry_after = Some(Duration::from_secs(7));
        let answer = answer_to(Cause::Busy {
            by: Party::Registry,
            retry_after,
        });
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()[RETRY_AFTER], "7");
        assert_eq!(body(&answer)["errors"][0]["code"], "TOOMANYREQUESTS");
    }

    #[test]
    fn a_body_that_cannot_be_repeated_is_asked_for_again_at_once() {
        let answer = repeat_request();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[RETRY_AFTER], "0");
    }
}
