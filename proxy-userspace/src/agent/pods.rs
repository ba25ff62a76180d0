//! Pods of this node: cgroups that are seen here, paired with what the controller knows of
//! them, and enrolled as soon as both and the network namespace are there.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::snapshot::{Pod, Snapshot};
use crate::{
    node::{Node, NodeError},
    workload::{
        NetNs, PolicyId, Workload,
        pods::{PodCgroup, PodEvent, find_netns, holds_process},
    },
};

/// How soon a namespace that was not there is looked for again, by the age of the pod's
/// cgroup. The first process comes with the sandbox, mostly within a second; a pod that has
/// none for long waits for its network.
const LOOK_AGAIN: [(Duration, Duration); 3] = [
    (Duration::from_secs(3), Duration::from_millis(5)),
    (Duration::from_secs(30), Duration::from_millis(100)),
    (Duration::MAX, Duration::from_secs(1)),
];

/// The pods whose cgroups are there.
#[derive(Default)]
pub(super) struct Pods(HashMap<u64, Seen>);

struct Seen {
    cgroup: PodCgroup,
    since: Instant,
    /// When to try again; `None` when there is nothing to try for.
    next: Option<Instant>,
    enrolled: Option<Enrolled>,
    /// Why the last attempt to serve it failed, if it did.
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Enrolled {
    policy: PolicyId,
    /// Whether the namespace is known to hold the pod's address.
    verified: bool,
    /// Inode of the namespace; 0 is the node's own.
    netns: u64,
}

/// What is to be done for a pod.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Find its namespace, and listen there unless that is so already.
    Place(PolicyId),
    /// Other Connectors for the same listeners.
    Policy(PolicyId),
}

impl Pods {
    /// A cgroup came or went.
    pub(super) fn observe(&mut self, event: PodEvent, snapshot: &Snapshot, node: &mut Node) {
        match event {
            PodEvent::Appeared(cgroup) => {
                tracing::debug!(pod = %cgroup.uid, cgroup = cgroup.cgroup_id, "a pod's cgroup appeared");
                let id = cgroup.cgroup_id;
                let seen = Seen {
                    cgroup,
                    since: Instant::now(),
                    next: None,
                    enrolled: None,
                    failure: None,
                };
                self.0.insert(id, seen);
                self.advance(id, snapshot, node);
            }
            PodEvent::Vanished(cgroup) => {
                let gone = self.0.remove(&cgroup.cgroup_id);
                if gone.is_some_and(|seen| seen.enrolled.is_some()) {
                    tracing::debug!(pod = %cgroup.uid, "a pod is gone");
                    match node.withdraw(cgroup.cgroup_id) {
                        Ok(()) | Err(NodeError::Replaced) => {}
                        Err(error) => {
                            tracing::error!(pod = %cgroup.uid, "cannot withdraw a pod: {error}");
                        }
                    }
                }
            }
        }
    }

    /// The snapshot changed: every pod is looked at.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, node: &mut Node) {
        let all: Vec<_> = self.0.keys().copied().collect();
        for id in all {
            self.advance(id, snapshot, node);
        }
    }

    /// When [`Self::retry`] has something to do; `None`: not before something changes.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.0.values().filter_map(|seen| seen.next).min()
    }

    /// Looks again for namespaces that were not there.
    pub(super) fn retry(&mut self, snapshot: &Snapshot, node: &mut Node) {
        let now = Instant::now();
        let due: Vec<_> = self
            .0
            .iter()
            .filter(|(_, seen)| seen.next.is_some_and(|next| next <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.advance(id, snapshot, node);
        }
    }

    /// How many pods are served.
    pub(super) fn enrolled(&self) -> usize {
        self.0.values().filter(|it| it.enrolled.is_some()).count()
    }

    /// Whether every pod that has something granted is served, or has no process yet that
    /// could want it.
    pub(super) fn is_settled(&self, snapshot: &Snapshot) -> bool {
        self.0.values().all(|seen| {
            let pod = snapshot.pod(&seen.cgroup.uid);
            seen.failure.is_none() || step(seen.enrolled, pod) == Step::Nothing
        })
    }

    /// Whether the cgroup is that of a pod that has something granted.
    pub(super) fn is_granted(&self, cgroup_id: u64, snapshot: &Snapshot) -> bool {
        let seen = self.0.get(&cgroup_id);
        let pod = seen.and_then(|seen| snapshot.pod(&seen.cgroup.uid));
        pod.is_some_and(|pod| pod.policy.0 != 0)
    }

    /// How many have something granted and no listener yet.
    pub(super) fn waiting(&self, snapshot: &Snapshot) -> usize {
        let waits =
            |(id, seen): &(&u64, &Seen)| seen.enrolled.is_none() && self.is_granted(**id, snapshot);
        self.0.iter().filter(waits).count()
    }

    fn advance(&mut self, id: u64, snapshot: &Snapshot, node: &mut Node) {
        let Some(seen) = self.0.get_mut(&id) else {
            return;
        };
        let pod = snapshot.pod(&seen.cgroup.uid);
        let outcome = match (step(seen.enrolled, pod), pod) {
            (Step::Place(policy), Some(pod)) => seen.place(pod, policy, node),
            (Step::Policy(policy), _) => seen.set_policy(policy, node),
            _ => Ok(()),
        };
        seen.note(outcome);
        let wants_more = matches!(
            step(seen.enrolled, snapshot.pod(&seen.cgroup.uid)),
            Step::Place(_) | Step::Policy(_)
        );
        seen.next = wants_more.then(|| Instant::now() + look_again(seen.since.elapsed()));
    }
}

impl Seen {
    /// Remembers a failure, and tells it once.
    fn note(&mut self, outcome: Result<(), NodeError>) {
        let failure = match outcome {
            Ok(()) => None,
            // Whoever takes over serves it, which the next look at the node will tell.
            Err(NodeError::Replaced) => return,
            Err(error) => Some(error.to_string()),
        };
        if let Some(text) = &failure
            && self.failure.as_ref() != Some(text)
        {
            tracing::error!(pod = %self.cgroup.uid, "cannot serve a pod, trying again: {text}");
        }
        self.failure = failure;
    }

    fn place(&mut self, pod: &Pod, policy: PolicyId, node: &mut Node) -> Result<(), NodeError> {
        let (netns, inode) = if pod.host_network {
            // The agent's own connections to upstreams must not come back to it.
            if holds_process(&self.cgroup.path, std::process::id())? {
                return Ok(());
            }
            (NetNs::own(), 0)
        } else {
            let found = find_netns(&self.cgroup.path, &pod.ips)
                .map_err(crate::listen::ListenError::from)?;
            let Some(found) = found else {
                return Ok(());
            };
            (found.netns, found.inode)
        };
        let enrolled = Enrolled {
            policy,
            verified: pod.host_network || !pod.ips.is_empty(),
            netns: inode,
        };
        let same_place = self.enrolled.is_some_and(|it| it.netns == inode);
        if same_place {
            node.set_policy(self.cgroup.cgroup_id, policy)?;
        } else {
            let workload = Workload {
                cgroup_id: self.cgroup.cgroup_id,
                name: format!("{}/{}", pod.namespace, pod.name),
                policy,
            };
            node.enrol(workload, netns, &self.cgroup.path)?;
            tracing::info!(
                pod = %format_args!("{}/{}", pod.namespace, pod.name),
                policy = policy.0,
                after_ms = self.since.elapsed().as_millis(),
                "serving a pod"
            );
        }
        self.enrolled = Some(enrolled);
        Ok(())
    }

    fn set_policy(&mut self, policy: PolicyId, node: &mut Node) -> Result<(), NodeError> {
        node.set_policy(self.cgroup.cgroup_id, policy)?;
        if let Some(enrolled) = &mut self.enrolled {
            enrolled.policy = policy;
        }
        Ok(())
    }
}

/// A pod that was never granted anything is not enrolled: the kernel leaves it alone. One
/// whose grants were taken away stays, so that the requests that it is making get an answer.
fn step(enrolled: Option<Enrolled>, pod: Option<&Pod>) -> Step {
    let wanted = pod.map_or(PolicyId(0), |pod| pod.policy);
    match (enrolled, pod) {
        (None, Some(_)) if wanted.0 != 0 => Step::Place(wanted),
        (Some(now), Some(pod)) if !now.verified && !pod.ips.is_empty() => Step::Place(wanted),
        (Some(now), _) if now.policy != wanted => Step::Policy(wanted),
        _ => Step::Nothing,
    }
}

fn look_again(age: Duration) -> Duration {
    LOOK_AGAIN
        .iter()
        .find(|(until, _)| age < *until)
        .map_or(Duration::from_secs(1), |(_, pause)| *pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: u32, ips: &[&str]) -> Pod {
        Pod {
            namespace: "team".into(),
            name: "pod".into(),
            policy: PolicyId(policy),
            ips: ips
                .iter()
                .map(|ip| ip.parse().expect("an address"))
                .collect(),
            host_network: false,
        }
    }

    fn enrolled(policy: u32, verified: bool) -> Enrolled {
        Enrolled {
            policy: PolicyId(policy),
            verified,
            netns: 7,
        }
    }

    #[test]
    fn only_pods_with_grants_are_enrolled() {
        assert_eq!(step(None, None), Step::Nothing);
        assert_eq!(step(None, Some(&pod(0, &["192.0.2.1"]))), Step::Nothing);
        assert_eq!(step(None, Some(&pod(3, &[]))), Step::Place(PolicyId(3)));
    }

    #[test]
    fn the_place_is_verified_once_the_address_is_known() {
        let known = pod(3, &["192.0.2.1"]);
        assert_eq!(
            step(Some(enrolled(3, false)), Some(&pod(3, &[]))),
            Step::Nothing
        );
        let again = step(Some(enrolled(3, false)), Some(&known));
        assert_eq!(again, Step::Place(PolicyId(3)));
        assert_eq!(step(Some(enrolled(3, true)), Some(&known)), Step::Nothing);
    }

    #[test]
    fn grants_that_change_or_go_change_the_policy() {
        let known = pod(4, &["192.0.2.1"]);
        let other = step(Some(enrolled(3, true)), Some(&known));
        assert_eq!(other, Step::Policy(PolicyId(4)));
        assert_eq!(
            step(Some(enrolled(3, true)), None),
            Step::Policy(PolicyId(0))
        );
        assert_eq!(step(Some(enrolled(0, true)), None), Step::Nothing);
    }

    #[test]
    fn the_search_slows_down() {
        let seconds = Duration::from_secs;
        assert!(look_again(seconds(0)) < look_again(seconds(10)));
        assert!(look_again(seconds(10)) < look_again(seconds(3600)));
    }
}
