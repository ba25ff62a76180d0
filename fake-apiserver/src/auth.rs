//! Who sends a request: bearer tokens from a table.

use std::collections::{BTreeMap, HashMap};

/// The audience of tokens for the API server itself.
pub const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A user, as authentication finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user.
    pub user: String,
    /// Its uid, empty if it has none.
    pub uid: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Further claims, such as the node that a service account's token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user with groups; `system:authenticated` is added.
    pub fn user(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        Self { user: name.to_owned(), groups, ..Self::default() }
    }

    /// A user that may do everything.
    pub fn admin() -> Self {
        Self::user("kubernetes-admin", &["system:masters"])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::user(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }

    /// The identity with a further claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: &str) -> Self {
        self.extra.entry(name.to_owned()).or_default().push(value.to_owned());
        self
    }

    /// The identity with the claims of a token that is bound to a pod on a node.
    #[must_use]
    pub fn bound_to(self, pod: &str, pod_uid: &str, node: &str) -> Self {
        self.claim("authentication.kubernetes.io/pod-name", pod)
            .claim("authentication.kubernetes.io/pod-uid", pod_uid)
            .claim("authentication.kubernetes.io/node-name", node)
    }

    /// Nobody.
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()], ..Self::default() }
    }
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub identity: Identity,
    /// For whom it was made.
    pub audiences: Vec<String>,
}

impl Token {
    /// A token for the API server.
    pub fn new(identity: Identity) -> Self {
        Self { identity, audiences: vec![API_AUDIENCE.to_owned()] }
    }

    /// A token for other audiences.
    pub fn with_audiences(identity: Identity, audiences: &[&str]) -> Self {
        Self { identity, audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect() }
    }
}

/// All valid tokens.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    known: HashMap<String, Token>,
}

impl Tokens {
    /// Makes a token valid.
    pub fn insert(&mut self, token: &str, meaning: Token) {
        self.known.insert(token.to_owned(), meaning);
    }

    /// Makes a token invalid.
    pub fn revoke(&mut self, token: &str) {
        self.known.remove(token);
    }

    /// Whose token it is, and which of the wanted audiences it is for.
    pub fn check(&self, token: &str, wanted: &[String]) -> Option<(&Identity, Vec<String>)> {
        let known = self.known.get(token)?;
        let common: Vec<String> = known.audiences.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        (!common.is_empty()).then_some((&known.identity, common))
    }
}
