//! Which pods may use which Connectors.
//!
//! A pod may use the Connectors of its own namespace, as far as its service account may
//! `get connectors/proxy` there. Access reviews decide; what they answered is an input.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{Context, SHA256};
use connectors::ConnectorId;
use proxy_common::maps::POLICY_ANY;

/// Numbers of Connectors are smaller than this: nodes need others beside them.
pub const CONNECTOR_IDS: u32 = 1 << 30;

/// What is added to the number of a Connector for its stand-in.
const UNDECIDED: u32 = 1 << 31;

/// The number of what stands in for a Connector while it is not known whether a pod is granted it.
pub const fn undecided(id: ConnectorId) -> ConnectorId {
    ConnectorId(id.0 | UNDECIDED)
}

/// Whether a number is that of a stand-in.
pub const fn is_undecided(id: ConnectorId) -> bool {
    id.0 & UNDECIDED != 0
}

/// A pod, as far as grants and nodes need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `status.podIPs`.
    pub ips: Vec<String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
}

/// The question of a `SubjectAccessReview`: may this service account use Connectors of its
/// namespace?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Review {
    /// Namespace of the service account and of the Connectors.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// One Connector; `None` asks for all of them.
    pub connector: Option<String>,
}

/// What reviews answered.
#[derive(Clone, Debug, Default)]
pub struct Reviews(BTreeMap<Review, bool>);

impl Reviews {
    /// Notes an answer. Returns whether it is new or different.
    ///
    /// A yes to all makes those to single Connectors superfluous; they are forgotten, because
    /// nobody would notice when they are wrong.
    pub fn answer(&mut self, review: Review, allowed: bool) -> bool {
        if allowed && review.connector.is_none() {
            self.0.retain(|it, _| {
                (&it.namespace, &it.service_account) != (&review.namespace, &review.service_account)
                    || it.connector.is_none()
            });
        }
        self.0.insert(review, allowed) != Some(allowed)
    }

    /// The questions that have an answer.
    pub fn iter(&self) -> impl Iterator<Item = &Review> {
        self.0.keys()
    }

    /// Forgets the answers that are not wanted any more.
    pub fn retain(&mut self, wanted: impl FnMut(&Review) -> bool) {
        let mut wanted = wanted;
        self.0.retain(|review, _| wanted(review));
    }

    /// The answer of a question.
    pub fn get(&self, review: &Review) -> Option<bool> {
        self.0.get(review).copied()
    }
}

/// The Connectors of a cluster, as far as grants need them.
pub trait Directory {
    /// Names and ids of the Connectors of a namespace.
    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&str, ConnectorId)>;
}

/// The grants of a set of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Each pod's Connectors, by its uid; every pod is in here. One that is granted something
    /// has stand-ins ([`undecided`]) for the Connectors that are not decided about.
    pub of_pods: BTreeMap<String, BTreeSet<ConnectorId>>,
    /// Pods that may be granted more, as soon as the questions about them are answered.
    pub pending: BTreeSet<String>,
    /// Questions that these grants depend on and that have no answer yet. Until they have,
    /// nothing is granted on their behalf.
    pub open: BTreeSet<Review>,
}

impl Grants {
    /// Decides for every pod.
    pub fn decide<'a>(
        pods: impl IntoIterator<Item = &'a Pod>,
        directory: &impl Directory,
        reviews: &Reviews,
    ) -> Self {
        let mut grants = Self::default();
        // Pods of one workload share their service account.
        let mut of_accounts = BTreeMap::new();
        for pod in pods {
            let (granted, complete) = of_accounts
                .entry((&pod.namespace, &pod.service_account))
                .or_insert_with(|| {
                    let before = grants.open.len();
                    let granted = granted(pod, directory, reviews, &mut grants.open);
                    // Nobody else asks about this account.
                    (granted, grants.open.len() == before)
                });
            if !*complete {
                grants.pending.insert(pod.uid.clone());
            }
            grants.of_pods.insert(pod.uid.clone(), granted.clone());
        }
        grants
    }
}

/// What a pod's service account is granted. One review for the whole namespace settles it in
/// the common case; only when that says no, the Connectors are asked for one by one, because
/// a role may name them. With those that are granted come stand-ins for those without an answer,
/// so that the pod is served with the former and does not get around the latter. While there is
/// none that is granted, the pod is as good as unknown.
fn granted(
    pod: &Pod,
    directory: &impl Directory,
    reviews: &Reviews,
    open: &mut BTreeSet<Review>,
) -> BTreeSet<ConnectorId> {
    let mut allowed = |connector: Option<&str>| {
        let review = Review {
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            connector: connector.map(str::to_owned),
        };
        let answer = reviews.get(&review);
        if answer.is_none() {
            open.insert(review);
        }
        answer
    };
    let mut connectors = directory.in_namespace(&pod.namespace).peekable();
    if connectors.peek().is_none() {
        return BTreeSet::new();
    }
    match allowed(None) {
        None => BTreeSet::new(),
        Some(true) => connectors.map(|(_, id)| id).collect(),
        Some(false) => {
            let answers = connectors.map(|(name, id)| (allowed(Some(name)), id));
            let found: Vec<_> = answers.collect();
            if found.iter().all(|(answer, _)| *answer != Some(true)) {
                return BTreeSet::new();
            }
            let ids = found.into_iter().filter_map(|(answer, id)| match answer {
                Some(true) => Some(id),
                Some(false) => None,
                None => Some(undecided(id)),
            });
            ids.collect()
        }
    }
}

/// Number of a policy on one node; never 0, nor [`POLICY_ANY`].
pub type PolicyId = u32;

/// The policies of one node: each distinct set of granted Connectors has an id, and keeps it
/// for as long as some pod of the node has that set.
///
/// An id starts from a hash of the set, so that it means the same after a restart of the
/// controller and on every replica: an agent that changes over from one to the other never
/// has a pod under an id that stands for somebody else's Connectors.
#[derive(Clone, Debug, Default)]
pub struct Policies(BTreeMap<BTreeSet<ConnectorId>, PolicyId>);

impl Policies {
    /// Takes over the sets in use; the empty set needs no policy.
    pub fn update<'a>(&mut self, sets: impl IntoIterator<Item = &'a BTreeSet<ConnectorId>>) {
        let in_use: BTreeSet<_> = sets.into_iter().filter(|set| !set.is_empty()).collect();
        self.0.retain(|set, _| in_use.contains(set));
        for set in in_use {
            if !self.0.contains_key(set) {
                let id = self.free(hash(set));
                self.0.insert(set.clone(), id);
            }
        }
    }

    /// The policy of a set; 0 for the empty one and for those not in use.
    pub fn id(&self, set: &BTreeSet<ConnectorId>) -> PolicyId {
        self.0.get(set).copied().unwrap_or_default()
    }

    /// All policies.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyId, &BTreeSet<ConnectorId>)> {
        self.0.iter().map(|(set, id)| (*id, set))
    }

    /// The first number from `start` that is not in use.
    fn free(&self, start: PolicyId) -> PolicyId {
        let mut id = start;
        while matches!(id, 0 | POLICY_ANY) || self.0.values().any(|used| *used == id) {
            id = id.wrapping_add(1);
        }
        id
    }
}

fn hash(set: &BTreeSet<ConnectorId>) -> PolicyId {
    let mut context = Context::new(&SHA256);
    for id in set {
        context.update(&id.0.to_be_bytes());
    }
    let hash = context.finish();
    hash.as_ref()
        .first_chunk()
        .map_or(1, |it| PolicyId::from_be_bytes(*it))
}

#[cfg(test)]
mod tests;
