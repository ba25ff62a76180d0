//! What a client is answered when its request ends here.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use super::{Caller, close_after};
use crate::{
    credential::oci::{OciError, answer},
    gate::{Refusal, Target},
    state::Protocol,
    telemetry::Counters,
    upstream::{self, Body, HttpVersion, UpstreamError},
};

/// Why a request has no answer of the upstream.
pub(super) enum Stop {
    Refusal(Refusal),
    Upstream(UpstreamError),
    Registry(OciError),
    /// The workload has no room for a tunnel.
    Full,
}

impl Stop {
    /// The reason, for people and logs, in the form that the client expects.
    pub(super) fn into_response(self, caller: &Caller, target: Option<&Target>) -> Response<Body> {
        let kind = match &self {
            Self::Upstream(error) => Some(error.kind),
            // Like too many requests to an upstream.
            Self::Full => Some(upstream::ErrorKind::Busy),
            _ => None,
        };
        if kind == Some(upstream::ErrorKind::Stalled) {
            Counters::add(&caller.worker.proxy.counters.stalled, 1);
        }
        let mut response = self.answer(caller, target);
        match kind {
            Some(upstream::ErrorKind::Busy) => {
                let soon = HeaderValue::from_static("1");
                response.headers_mut().insert(RETRY_AFTER, soon);
            }
            // The rest of its body is on its way, or never comes.
            Some(
                upstream::ErrorKind::ClientBroken
                | upstream::ErrorKind::ClientSilent
                | upstream::ErrorKind::Stalled,
            ) if caller.version == HttpVersion::Http1 => {
                close_after(&mut response);
            }
            _ => {}
        }
        response
    }

    fn answer(self, caller: &Caller, target: Option<&Target>) -> Response<Body> {
        let (status, reason) = match self {
            Self::Registry(error) => {
                tracing::warn!(workload = caller.workload.name, "{error}");
                return answer::failure(&error).map(upstream::full);
            }
            Self::Refusal(refusal) => (refusal.status, refusal.reason),
            Self::Full => {
                let reason = format!(
                    "{} has as many connections as it may have now (--connections, limit of open \
                     files), and another protocol takes one more; try again later",
                    caller.workload.name
                );
                (StatusCode::SERVICE_UNAVAILABLE, reason.into())
            }
            Self::Upstream(error) => {
                let status = match error.kind {
                    upstream::ErrorKind::Silent | upstream::ErrorKind::Stalled => {
                        StatusCode::GATEWAY_TIMEOUT
                    }
                    upstream::ErrorKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
                    upstream::ErrorKind::ClientBroken => StatusCode::BAD_REQUEST,
                    upstream::ErrorKind::ClientSilent => StatusCode::REQUEST_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                (status, error.to_string().into())
            }
        };
        tracing::warn!(
            workload = caller.workload.name,
            connector = target.map(|target| target.connector.to_string()),
            host = caller.site.host,
            status = status.as_u16(),
            "refused a request: {reason}"
        );
        let oci = target.is_some_and(|target| target.connector.protocol == Protocol::Oci);
        if oci {
            let code = answer::Code::for_status(status);
            return answer::error(status, code, &reason).map(upstream::full);
        }
        let mut response =
            Response::new(upstream::full(Bytes::from(format!("postern: {reason}\n"))));
        *response.status_mut() = status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<UpstreamError> for Stop {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<OciError> for Stop {
    fn from(error: OciError) -> Self {
        Self::Registry(error)
    }
}
