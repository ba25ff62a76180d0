//! What can go wrong between the proxy and a registry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use super::fetch::FetchError;
use super::realm::RealmError;

/// A failed authentication. Neither `Display` nor `Debug` ever shows a secret, a token, or
/// text that the other side sent.
#[derive(Clone, Debug, Error)]
#[error("Connector {connector}, registry {registry}: {cause}")]
pub struct OciError {
    pub(super) connector: String,
    pub(super) registry: String,
    pub(super) cause: Cause,
}

impl OciError {
    /// What failed, for decisions.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }
}

/// What failed.
#[derive(Clone, Debug, Error)]
pub enum Cause {
    /// No answer.
    #[error(
        "{by} cannot be reached ({reason}); check its name, port and certificate, and the network policies"
    )]
    Unreachable {
        /// Who did not answer.
        by: Party,
        /// What the connection said.
        reason: FetchError,
    },
    /// A redirect where none is followed.
    #[error(
        "{by} answers with a redirect ({status}), which is never followed with a credential; use the final address in the Connector"
    )]
    Redirected {
        /// Who redirects.
        by: Party,
        /// 3xx.
        status: StatusCode,
    },
    /// 429.
    #[error("{by} limits the rate of requests (429); wait, or use an account with a higher limit")]
    Busy {
        /// Who limits.
        by: Party,
        /// What it asked to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("{by} fails with {status}; try again later or look at its own logs")]
    Unavailable {
        /// Who fails.
        by: Party,
        /// 5xx.
        status: StatusCode,
    },
    /// A status that the protocol gives no meaning.
    #[error(
        "{by} answers {status}, which is not expected here; check that the address is a registry's"
    )]
    Unexpected {
        /// Who answers.
        by: Party,
        /// The status.
        status: StatusCode,
    },
    /// An answer that cannot be used.
    #[error("the answer of {by} cannot be used: {reason}")]
    BadAnswer {
        /// Who answered.
        by: Party,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// 401 or 403 without a Basic or Bearer challenge.
    #[error(
        "it asks for authentication but offers neither Basic nor Bearer; no other scheme is supported"
    )]
    NoChallenge,
    /// The token service that the registry names must not get the credential.
    #[error("its token service is refused because of its address: {0}")]
    UnsafeRealm(#[from] RealmError),
    /// The credential is wrong.
    #[error(
        "credential rejected: {by} answers {status}; put a valid one into the Connector's Secret"
    )]
    CredentialRejected {
        /// Who rejects it.
        by: Party,
        /// 400, 401 or 403.
        status: StatusCode,
    },
    /// The Connector has no credential, and the registry wants one.
    #[error("{by} answers {status} to anonymous access; bind a Secret to the Connector")]
    CredentialMissing {
        /// Who wants one.
        by: Party,
        /// 401.
        status: StatusCode,
    },
    /// The credential is of a kind that the registry's scheme has no place for.
    #[error(
        "it asks for Basic, which needs a user name and password, but the Secret holds an identity token"
    )]
    CredentialUnfit,
    /// The credential has characters that a header cannot carry.
    #[error(
        "the Secret's token has characters that a header cannot carry; look for a line break at its end"
    )]
    CredentialUnsendable,
    /// The credential is valid but does not permit the request.
    #[error(
        "{by} refuses the Connector's account this operation ({status}); give the account the right, or ask for less"
    )]
    Denied {
        /// Who refuses.
        by: Party,
        /// 401 or 403.
        status: StatusCode,
    },
}

impl Cause {
    /// How long the same exchange is answered with this failure instead of being repeated.
    ///
    /// A wrong password is not tried again with each of a client's instant retries, which
    /// would lock the account; a rate limit is given the time that it asked for.
    pub(super) fn hold(&self) -> Duration {
        const REJECTED: Duration = Duration::from_secs(10);
        const BUSY: Duration = Duration::from_secs(1);
        const BUSY_LONGEST: Duration = Duration::from_mins(1);
        match self {
            Self::CredentialRejected { .. } => REJECTED,
            Self::Busy { retry_after, .. } => retry_after.unwrap_or(BUSY).clamp(BUSY, BUSY_LONGEST),
            _ => Duration::ZERO,
        }
    }
}

/// Who is spoken of in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// The registry itself.
    Registry,
    /// The token service on this host.
    TokenService(Arc<str>),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry => f.write_str("the registry"),
            Self::TokenService(host) => write!(f, "the token service {host}"),
        }
    }
}
