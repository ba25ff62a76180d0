//! Pods of this node: cgroups that are seen here, paired with what the controller knows of
//! them, and enrolled as soon as both and the network namespace are there. Until then they are
//! pending: what a Connector wants is refused to them.

mod step;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::snapshot::{Pod, Snapshot};
use crate::{
    limits,
    node::{Node, NodeError},
    workload::{
        NetNs, NetNsError, PolicyId, Workload,
        pods::{PodCgroup, PodEvent, find_netns, holds_process},
    },
};
use step::{Enrolled, Facts, State, Step, holds, step, stranger_from};

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
pub(super) struct Pods {
    seen: HashMap<u64, Seen>,
    /// How often one came, went or was treated otherwise than before.
    changes: u64,
    /// The pod of this agent.
    own: Option<u64>,
    /// Since when the controller says what it knows; `None` while it is away.
    told: Option<Instant>,
}

struct Seen {
    cgroup: PodCgroup,
    /// It is this agent's: its own connections to upstreams must not come back to it, nor be
    /// refused.
    is_own: bool,
    since: Instant,
    /// When to try again; `None` when there is nothing to try for.
    next: Option<Instant>,
    state: State,
    /// It has nothing to do with Postern, as far as is known.
    left_alone: bool,
    /// Why the last attempt to serve it failed, if it did.
    failure: Option<String>,
}

/// The cgroup of this agent's own pod, if it runs in one. It is looked for once: a pod is to be
/// refused what it may not have yet even while there are no descriptors to look at its processes.
pub(super) fn own_pod(found: &[PodEvent]) -> Result<Option<u64>, NetNsError> {
    for event in found {
        if let PodEvent::Appeared(cgroup) = event
            && holds_process(&cgroup.path, std::process::id())?
        {
            return Ok(Some(cgroup.cgroup_id));
        }
    }
    Ok(None)
}

impl Pods {
    /// No pods yet; `own` is what [`own_pod`] found.
    pub(super) fn new(own: Option<u64>) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// A pod's cgroup was there before this agent. One that nobody knows, neither the controller
    /// nor whoever wrote the kernel's maps before, is left as it is.
    pub(super) fn find(&mut self, event: PodEvent, snapshot: &Snapshot, node: &mut Node) {
        let left_alone = match &event {
            PodEvent::Appeared(cgroup) => !node.has_entry(cgroup.cgroup_id),
            PodEvent::Vanished(_) => false,
        };
        self.take(event, left_alone, snapshot, node);
    }

    /// Counts what changes how many pods are served or wait.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// A cgroup came or went.
    pub(super) fn observe(&mut self, event: PodEvent, snapshot: &Snapshot, node: &mut Node) {
        self.take(event, false, snapshot, node);
    }

    fn take(&mut self, event: PodEvent, left_alone: bool, snapshot: &Snapshot, node: &mut Node) {
        self.changes += 1;
        match event {
            PodEvent::Appeared(cgroup) => {
                tracing::debug!(pod = %cgroup.uid, cgroup = cgroup.cgroup_id, "a pod's cgroup appeared");
                let id = cgroup.cgroup_id;
                let seen = Seen {
                    cgroup,
                    is_own: self.own == Some(id),
                    since: Instant::now(),
                    next: None,
                    state: State::Absent,
                    left_alone,
                    failure: None,
                };
                self.seen.insert(id, seen);
                self.advance(id, snapshot, node);
            }
            PodEvent::Vanished(cgroup) => {
                self.seen.remove(&cgroup.cgroup_id);
                tracing::debug!(pod = %cgroup.uid, "a pod is gone");
                // Whatever the last attempt came to, and whoever wrote what the kernel has.
                match node.withdraw(cgroup.cgroup_id) {
                    Ok(()) | Err(NodeError::Replaced) => {}
                    Err(error) => {
                        tracing::error!(pod = %cgroup.uid, "cannot withdraw a pod: {error}");
                    }
                }
            }
        }
    }

    /// The controller tells what it knows since then, or is away.
    pub(super) fn set_told(&mut self, told: Option<Instant>) {
        self.told = told;
    }

    /// The snapshot changed: every pod is looked at.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, node: &mut Node) {
        let all: Vec<_> = self.seen.keys().copied().collect();
        for id in all {
            self.advance(id, snapshot, node);
        }
    }

    /// Policies that pods keep until it is known anew what they are granted.
    pub(super) fn held(&self, snapshot: &Snapshot) -> BTreeSet<PolicyId> {
        let all = self.seen.values();
        all.filter_map(|seen| match seen.state {
            State::Enrolled(now) => {
                holds(now, snapshot.pod(&seen.cgroup.uid), seen.loses(snapshot))
            }
            _ => None,
        })
        .collect()
    }

    /// When [`Self::retry`] has something to do; `None`: not before something changes.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.seen.values().filter_map(|seen| seen.next).min()
    }

    /// Looks again for namespaces that were not there, and for pods that are strangers by now.
    pub(super) fn retry(&mut self, snapshot: &Snapshot, node: &mut Node) {
        let now = Instant::now();
        let due: Vec<_> = self
            .seen
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
        let all = self.seen.values();
        all.filter(|it| matches!(it.state, State::Enrolled(_)))
            .count()
    }

    /// Whether every pod that has something granted is served, or has no process yet that
    /// could want it.
    pub(super) fn is_settled(&self, snapshot: &Snapshot) -> bool {
        self.seen
            .values()
            .all(|seen| seen.failure.is_none() || self.step(seen, snapshot) == Step::Nothing)
    }

    /// Whether the cgroup is that of a pod that has something granted, or may have.
    pub(super) fn is_wanted(&self, cgroup_id: u64, snapshot: &Snapshot) -> bool {
        let seen = self.seen.get(&cgroup_id);
        seen.is_some_and(|seen| seen.state != State::Absent || self.is_held_up(seen, snapshot))
    }

    /// How many have something granted, or may have, and no listener yet.
    pub(super) fn waiting(&self, snapshot: &Snapshot) -> usize {
        let waits = |seen: &&Seen| match seen.state {
            State::Enrolled(_) => false,
            State::Pending(_) => true,
            State::Absent => self.is_held_up(seen, snapshot),
        };
        self.seen.values().filter(waits).count()
    }

    /// Whether a pod of which nothing was written is served or pending as soon as that can be; a
    /// replaced agent may serve it meanwhile.
    fn is_held_up(&self, seen: &Seen, snapshot: &Snapshot) -> bool {
        let is_pended = !seen.is_own && self.step(seen, snapshot) == Step::Pend;
        is_pended || seen.is_granted(snapshot)
    }

    fn advance(&mut self, id: u64, snapshot: &Snapshot, node: &mut Node) {
        let Some(mut seen) = self.seen.remove(&id) else {
            return;
        };
        let before = (seen.state, seen.left_alone);
        let pod = snapshot.pod(&seen.cgroup.uid);
        let outcome = match (self.step(&seen, snapshot), pod) {
            (Step::Place(policy), Some(pod)) => seen.place(pod, policy, node),
            (Step::Policy(policy), _) => seen.set_policy(policy, node),
            (Step::Pend, _) => seen.pend(None, node),
            (Step::LeaveAlone, _) => seen.leave_alone(pod, node),
            _ => Ok(()),
        };
        seen.note(outcome);
        self.changes += u64::from((seen.state, seen.left_alone) != before);
        seen.next = match self.step(&seen, snapshot) {
            Step::Nothing if seen.state == State::Pending(None) && pod.is_none() => {
                stranger_from(seen.since, self.told)
            }
            Step::Nothing => None,
            _ => Some(Instant::now() + look_again(seen.since.elapsed())),
        };
        self.seen.insert(id, seen);
    }

    fn step(&self, seen: &Seen, snapshot: &Snapshot) -> Step {
        let from = stranger_from(seen.since, self.told);
        step(Facts {
            state: seen.state,
            left_alone: seen.left_alone,
            is_stranger: from.is_some_and(|from| from <= Instant::now()),
            loses: seen.loses(snapshot),
            pod: snapshot.pod(&seen.cgroup.uid),
        })
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

    /// Whether its policy grants something that what the controller says now does not.
    fn loses(&self, snapshot: &Snapshot) -> bool {
        match (self.state, snapshot.pod(&self.cgroup.uid)) {
            (State::Enrolled(now), Some(pod)) => snapshot.grants_more(now.policy, pod.policy),
            _ => false,
        }
    }

    fn is_granted(&self, snapshot: &Snapshot) -> bool {
        let pod = snapshot.pod(&self.cgroup.uid);
        pod.is_some_and(|pod| pod.policy.0 != 0)
    }

    /// Enrols it if that can be, and else has refused to it what it would be served.
    fn place(&mut self, pod: &Pod, policy: PolicyId, node: &mut Node) -> Result<(), NodeError> {
        let placed = self.enrol(pod, policy, node);
        if !matches!(self.state, State::Enrolled(_)) && !matches!(placed, Err(NodeError::Replaced))
        {
            // While something is open, it may be more than that.
            self.pend((!pod.pending).then_some(policy), node)?;
        }
        placed
    }

    fn enrol(&mut self, pod: &Pod, policy: PolicyId, node: &mut Node) -> Result<(), NodeError> {
        let (netns, inode) = if pod.host_network {
            if self.is_own {
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
        let is_same_place = matches!(self.state, State::Enrolled(now) if now.netns == inode);
        if is_same_place {
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
        self.state = State::Enrolled(enrolled);
        Ok(())
    }

    fn pend(&mut self, policy: Option<PolicyId>, node: &mut Node) -> Result<(), NodeError> {
        let pending = State::Pending(policy);
        if self.state == pending || self.is_own {
            return Ok(());
        }
        if node.pend(self.cgroup.cgroup_id, policy, &self.cgroup.path)? {
            self.state = pending;
        }
        Ok(())
    }

    fn set_policy(&mut self, policy: PolicyId, node: &mut Node) -> Result<(), NodeError> {
        node.set_policy(self.cgroup.cgroup_id, policy)?;
        if let State::Enrolled(enrolled) = &mut self.state {
            enrolled.policy = policy;
        }
        Ok(())
    }

    fn leave_alone(&mut self, pod: Option<&Pod>, node: &mut Node) -> Result<(), NodeError> {
        if self.state != State::Absent || node.has_entry(self.cgroup.cgroup_id) {
            node.withdraw(self.cgroup.cgroup_id)?;
            self.state = State::Absent;
        }
        if pod.is_none() && !self.left_alone {
            tracing::warn!(
                pod = %self.cgroup.uid,
                "the controller knows nothing of a pod that has been here for {} s, as it is with \
                 static pods: it is left alone until the controller does",
                limits::UNKNOWN_POD.as_secs()
            );
        }
        self.left_alone = true;
        Ok(())
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

    #[test]
    fn the_search_slows_down() {
        let seconds = Duration::from_secs;
        assert!(look_again(seconds(0)) < look_again(seconds(10)));
        assert!(look_again(seconds(10)) < look_again(seconds(3600)));
    }
}
