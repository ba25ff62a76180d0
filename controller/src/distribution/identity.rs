//! Which node a caller is on: its token, reviewed by the API server.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::api::PostParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use zeroize::{Zeroize as _, Zeroizing};

use super::limits;

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
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NoToken | Refusal::Invalid { .. } => Self::unauthenticated(message),
            Refusal::OtherUser { .. } | Refusal::NoNode | Refusal::OtherNode { .. } => {
                Self::permission_denied(message)
            }
            Refusal::Unanswered(_) => Self::unavailable(message),
        }
    }
}

/// Finds out on which node a caller is.
pub(super) struct Authenticator {
    client: Client,
    audience: String,
    user: String,
    turns: Semaphore,
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
            known: Mutex::default(),
        }
    }

    /// The node that the token of a call is for. Valid tokens are remembered for
    /// [`limits::REVIEWED`], others are not.
    pub(super) async fn node(&self, metadata: &MetadataMap) -> Result<String, Refusal> {
        let token = bearer(metadata).ok_or(Refusal::NoToken)?;
        let hash = hash(token);
        if let Some(node) = self.remembered(&hash) {
            return Ok(node);
        }
        let answer = timeout(limits::REVIEW, self.review(token)).await;
        let status = answer
            .unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
            .map_err(Refusal::Unanswered)?;
        let node = judge(status, &self.audience, &self.user)?;
        self.remember(hash, &node);
        Ok(node)
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
fn bearer(metadata: &MetadataMap) -> Option<&str> {
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
