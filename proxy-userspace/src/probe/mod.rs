//! Checks of Connectors: is the upstream there, does it accept the credential.
//!
//! Nothing here opens a connection: what to send and how to judge the answer is decided
//! here, the sending is the caller's.

mod functions;
mod plan;
mod report;
mod run;
mod template;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

pub use connectors::condition::{Condition, ConditionStatus, ConditionType, ready, reason};
pub use plan::{Plan, PlannedProbe, authentication, liveness};
pub use report::{Report, render};
pub use run::{MAX_REDIRECTS, PROBE_TIMEOUT, PROBES_AT_ONCE, check};
pub use verdict::{Verdict, compile};

/// Largest body of a response that a probe needs, in bytes; a sender stops reading there.
pub const MAX_BODY: usize = 1 << 20;

/// A request without a body. It may carry a credential.
#[derive(Clone)]
pub struct ProbeRequest {
    /// GET or POST.
    pub method: Method,
    /// Where to: always with a host, never with a user or fragment.
    pub url: Url,
    /// Headers besides those that every request has.
    pub headers: HeaderMap,
}

// Path and query are templates that a Secret may have gone into.
impl fmt::Debug for ProbeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeRequest")
            .field("method", &self.method)
            .field("origin", &self.url.origin().ascii_serialization())
            .field("headers", &self.headers.keys())
            .finish_non_exhaustive()
    }
}

/// The answer to a [`ProbeRequest`].
#[derive(Clone)]
pub struct ProbeResponse {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// At most [`MAX_BODY`] bytes of the body.
    pub body: Bytes,
}

// Whatever a service answers to an authenticated request may be confidential.
impl fmt::Debug for ProbeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeResponse")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
