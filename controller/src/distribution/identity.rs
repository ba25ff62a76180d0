//! Which node a caller is on: its token, reviewed by the API server.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::api::PostParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use zeroize::{Zeroize as _, Zeroizing};

use super::claims::{self, Shape};
use super::limits;
use crate::bucket::SharedBucket;
use crate::pause;

/// For whom the agents' tokens are made, unless it is set otherwise.
pub const AUDIENCE: &str = "postern-controller";
/// Name of the agents' service account.
pub const AGENT: &str = "postern-agent";
/// The claim with the node of the pod that a token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why a caller is refused. Nothing of its token is told.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error("the call has no token: agents send `authorization: Bearer <token>`")]
    NoToken,
    #[error(
        "the API server does not accept the token: it is forged, over, revoked, or not for the \
         audience {audience}"
    )]
    Invalid { audience: String },
    #[error("the token is that of {user}; only {expected} is served")]
    OtherUser { user: String, expected: String },
    #[error(
        "the token does not name the node of its pod: it has to be bound to a pod, by \
         Kubernetes 1.30 or newer (feature ServiceAccountTokenPodNodeInfo)"
    )]
    NoNode,
    #[error("the token is for node {of}, and the call is for node {named:?}")]
    OtherNode { of: String, named: String },
    #[error("the API server cannot be asked about the token: {0}")]
    Unanswered(String),
    #[error("too many tokens are to be reviewed at the moment; try again")]
    Busy,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NoToken | Refusal::Invalid { .. } => Self::unauthenticated(message),
            Refusal::OtherUser { .. } | Refusal::NoNode | Refusal::OtherNode { .. } => {
                Self::permission_denied(message)
            }
            Refusal::Unanswered(_) | Refusal::Busy => Self::unavailable(message),
        }
    }
}

/// Why the token of a stream counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revoked {
    /// It has come to its end, as every token does.
    Over,
    /// It was taken away before: its pod or its service account is gone.
    Early,
}

/// Finds out on which node a caller is.
pub(super) struct Authenticator {
    client: Client,
    audience: String,
    user: String,
    turns: Semaphore,
    rate: SharedBucket,
    opaque_rate: SharedBucket,
    known: Mutex<HashMap<TokenHash, Reviewed>>,
}

/// SHA-256 of a token.
type TokenHash = [u8; 32];

struct Reviewed {
    node: String,
    until: Instant,
}

impl Authenticator {
    /// For the agents whose service account is in `namespace`.
    pub(super) fn new(client: Client, namespace: &str, audience: &str) -> Self {
        Self {
            client,
            audience: audience.to_owned(),
            user: format!("system:serviceaccount:{namespace}:{AGENT}"),
            turns: Semaphore::new(limits::REVIEWS),
            rate: SharedBucket::new(limits::REVIEW_RATE.0, limits::REVIEW_RATE.1),
            opaque_rate: SharedBucket::new(limits::OPAQUE_RATE.0, limits::OPAQUE_RATE.1),
            known: Mutex::default(),
        }
    }

    /// The node that the token of a call is for. Valid tokens are remembered for
    /// [`limits::REVIEWED`], others are not.
    pub(super) async fn node(&self, token: &str) -> Result<String, Refusal> {
        let hash = hash(token);
        if let Some(node) = self.remembered(&hash) {
            return Ok(node);
        }
        self.admit(token)?;
        let node = self.node_now(token).await?;
        self.remember(hash, &node);
        Ok(node)
    }

    /// Waits until the token of a stream is not that of its node any more. An API server that
    /// does not answer takes nothing away.
    pub(super) async fn until_revoked(&self, token: &str, node: &str, every: Duration) -> Revoked {
        loop {
            sleep(pause::spread(every)).await;
            match self.node_now(token).await {
                Ok(now) if now == node => {}
                Err(Refusal::Unanswered(_)) => {}
                Ok(_) | Err(_) if claims::is_over(token, SystemTime::now()) => {
                    return Revoked::Over;
                }
                Ok(_) | Err(_) => {
                    self.known().remove(&hash(token));
                    return Revoked::Early;
                }
            }
        }
    }

    /// Refuses what is not worth a review, or more than there may be.
    fn admit(&self, token: &str) -> Result<(), Refusal> {
        match Shape::of(token) {
            Shape::Jwt(claims) if claims.may_be(&self.audience, &self.user, SystemTime::now()) => {}
            Shape::Jwt(_) | Shape::Malformed => {
                let audience = self.audience.clone();
                return Err(Refusal::Invalid { audience });
            }
            Shape::Opaque if !self.opaque_rate.take() => return Err(Refusal::Busy),
            Shape::Opaque => {}
        }
        if self.rate.take() {
            Ok(())
        } else {
            Err(Refusal::Busy)
        }
    }

    /// The node by what the API server says now.
    async fn node_now(&self, token: &str) -> Result<String, Refusal> {
        let answer = timeout(limits::REVIEW, self.review(token)).await;
        let status = answer
            .unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
            .map_err(Refusal::Unanswered)?;
        judge(status, &self.audience, &self.user)
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        // Never closed; if it were, reviews would be limited no more.
        let _turn = self.turns.acquire().await;
        let mut review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.audience.clone()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let body = serde_json::to_vec(&review);
        review.spec.token.zeroize();
        // The client takes the body as it is and drops it unwiped.
        let body = body.map_err(|error| error.to_string())?;
        let request = Request::new(TokenReview::url_path(&(), None))
            .create(&PostParams::default(), body)
            .map_err(|error| error.to_string())?;
        // The answer repeats the token, and the client would log one that it cannot parse.
        let unreadable = || "its answer is not a TokenReview".to_owned();
        let text = match self.client.request_text(request).await {
            Ok(text) => Zeroizing::new(text),
            Err(kube::Error::Api(status)) => return Err(status.message.clone()),
            Err(kube::Error::FromUtf8(_)) => return Err(unreadable()),
            Err(error) => return Err(error.to_string()),
        };
        let mut answer: TokenReview = serde_json::from_str(&text).map_err(|_| unreadable())?;
        answer.spec.token.zeroize();
        answer.status.ok_or_else(unreadable)
    }

    fn remembered(&self, hash: &TokenHash) -> Option<String> {
        let known = self.known();
        let reviewed = known.get(hash)?;
        (Instant::now() < reviewed.until).then(|| reviewed.node.clone())
    }

    fn remember(&self, hash: TokenHash, node: &str) {
        let now = Instant::now();
        let mut known = self.known();
        if known.len() >= limits::TOKENS {
            known.retain(|_, reviewed| now < reviewed.until);
        }
        // Whoever finds no room is asked for again.
        if known.len() < limits::TOKENS {
            let node = node.to_owned();
            let until = now + limits::REVIEWED;
            known.insert(hash, Reviewed { node, until });
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TokenHash, Reviewed>> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node in the answer to a review.
fn judge(status: TokenReviewStatus, audience: &str, expected: &str) -> Result<String, Refusal> {
    // An API server that knows nothing of audiences names none.
    let audiences = status.audiences.unwrap_or_default();
    if status.authenticated != Some(true) || !audiences.iter().any(|it| it == audience) {
        let audience = audience.to_owned();
        return Err(Refusal::Invalid { audience });
    }
    let UserInfo {
        username, extra, ..
    } = status.user.unwrap_or_default();
    let user = username.unwrap_or_default();
    if user != expected {
        let expected = expected.to_owned();
        return Err(Refusal::OtherUser { user, expected });
    }
    let mut nodes = extra
        .and_then(|mut extra| extra.remove(NODE_NAME))
        .unwrap_or_default();
    match nodes.pop() {
        Some(node) if nodes.is_empty() && !node.is_empty() => Ok(node),
        _ => Err(Refusal::NoNode),
    }
}

/// The token of a call (RFC 6750, section 2.1).
pub(super) fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("authorization").iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_sound = !token.is_empty() && token.len() <= limits::TOKEN;
    (scheme.eq_ignore_ascii_case("bearer") && is_sound).then_some(token)
}

fn hash(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(change: impl FnOnce(&mut Value)) -> Result<String, Refusal> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["us"],
            "user": {"username": "agent", "extra": {NODE_NAME: ["node-1"]}},
        });
        change(&mut status);
        judge(
            serde_json::from_value(status).expect("a status"),
            "us",
            "agent",
        )
    }

    #[test]
    fn only_a_whole_answer_names_a_node() {
        assert_eq!(judged(|_| ()).as_deref(), Ok("node-1"));
        for (pointer, value) in [
            ("/authenticated", json!(false)),
            ("/authenticated", Value::Null),
            ("/audiences", Value::Null),
            ("/audiences", json!([])),
            ("/audiences", json!(["others"])),
        ] {
            let refused = judged(|status| *status.pointer_mut(pointer).expect("there") = value);
            assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{pointer}");
        }
        let other = judged(|status| status["user"]["username"] = json!("agents"));
        assert!(matches!(other, Err(Refusal::OtherUser { .. })));
        for nodes in [json!([]), json!([""]), json!(["node-1", "node-2"])] {
            let refused = judged(|status| status["user"]["extra"][NODE_NAME] = nodes);
            assert_eq!(refused, Err(Refusal::NoNode));
        }
    }

    #[test]
    fn a_token_is_one_bearer_value() {
        let taken = |values: &[&'static str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("authorization", value.parse().expect("ASCII"));
            }
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(taken(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(taken(&["bearer  abc"]).as_deref(), Some("abc"));
        for none in [
            &[][..],
            &["abc"],
            &["Bearer "],
            &["Basic abc"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(taken(none), None, "{none:?}");
        }
    }
}
