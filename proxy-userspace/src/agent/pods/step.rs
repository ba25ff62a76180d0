//! What is to be done for a pod.

use tokio::time::Instant;

use crate::{agent::snapshot::Pod, limits, workload::PolicyId};

/// What this agent has told the kernel about a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    #[default]
    Absent,
    /// Connections to what a policy wants are refused; `None`: to what any policy wants.
    Pending(Option<PolicyId>),
    Enrolled(Enrolled),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enrolled {
    pub(super) policy: PolicyId,
    /// Whether the namespace is known to hold the pod's address.
    pub(super) verified: bool,
    /// Inode of the namespace; 0 is the node's own.
    pub(super) netns: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Have refused to it what any policy wants, until it is known what it is granted.
    Pend,
    /// Find its namespace, and listen there unless that is so already.
    Place(PolicyId),
    /// Other Connectors for the same listeners.
    Policy(PolicyId),
    /// It has no right to any Connector: what it dials is its own affair.
    LeaveAlone,
}

/// A pod as it is here, and what the controller says.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) state: State,
    /// It was left alone before.
    pub(super) left_alone: bool,
    /// The controller has not named it for so long that it never will.
    pub(super) is_stranger: bool,
    /// Its policy grants something that what the controller says now does not.
    pub(super) loses: bool,
    /// `None`: the controller does not name it.
    pub(super) pod: Option<&'a Pod>,
}

/// A pod that is granted nothing is not enrolled: the kernel leaves it alone. One whose grants
/// were taken away stays, so that the requests that it is making get an answer.
///
/// What was left alone once is not held up again by questions about it: it runs, and dials what
/// it likes, as it did. What is served is served on while the answers to new questions are out:
/// what it was granted holds until then, lest it goes without its credentials meanwhile.
pub(super) fn step(facts: Facts<'_>) -> Step {
    let Facts {
        state,
        left_alone,
        is_stranger,
        loses,
        pod,
    } = facts;
    let wanted = pod.map_or(PolicyId(0), |pod| pod.policy);
    if let State::Enrolled(now) = state {
        let wanted = holds(now, pod, loses).unwrap_or(wanted);
        return match pod {
            // At once: to find the place may take long.
            _ if now.policy != wanted => Step::Policy(wanted),
            Some(pod) if !now.verified && !pod.ips.is_empty() => Step::Place(wanted),
            _ => Step::Nothing,
        };
    }
    let is_known = pod.is_some_and(|pod| !pod.pending);
    if wanted.0 != 0 {
        Step::Place(wanted)
    } else if is_known || is_stranger || left_alone {
        match (state, left_alone) {
            (State::Absent, true) => Step::Nothing,
            _ => Step::LeaveAlone,
        }
    } else if state == State::Pending(None) {
        Step::Nothing
    } else {
        Step::Pend
    }
}

/// The policy that a pod keeps until the controller has a new answer, if it `loses` something by
/// what the controller says meanwhile. Each answer that only adds to it counts at once.
pub(super) fn holds(now: Enrolled, pod: Option<&Pod>, loses: bool) -> Option<PolicyId> {
    let is_open = pod.is_some_and(|pod| pod.pending);
    (is_open && loses).then_some(now.policy)
}

/// From when on a pod counts as a stranger that the controller does not name: its cgroup is
/// here `since`, and the controller tells what it knows since `told`.
pub(super) fn stranger_from(since: Instant, told: Option<Instant>) -> Option<Instant> {
    Some(since.max(told?) + limits::UNKNOWN_POD)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            pending: false,
        }
    }

    fn pending(policy: u32) -> Pod {
        Pod {
            pending: true,
            ..pod(policy, &[])
        }
    }

    fn enrolled(policy: u32, verified: bool) -> State {
        State::Enrolled(Enrolled {
            policy: PolicyId(policy),
            verified,
            netns: 7,
        })
    }

    fn of(state: State, pod: Option<&Pod>) -> Step {
        step(Facts {
            state,
            left_alone: false,
            is_stranger: false,
            loses: false,
            pod,
        })
    }

    /// The same for a pod whose policy grants more than what the controller says now.
    fn losing(state: State, pod: &Pod) -> Step {
        step(Facts {
            state,
            left_alone: false,
            is_stranger: false,
            loses: true,
            pod: Some(pod),
        })
    }

    #[test]
    fn a_pod_is_pending_until_it_is_known_what_it_is_granted() {
        let (any, one) = (State::Pending(None), State::Pending(Some(PolicyId(3))));
        assert_eq!(of(State::Absent, None), Step::Pend);
        assert_eq!(of(any, None), Step::Nothing);
        assert_eq!(of(State::Absent, Some(&pending(0))), Step::Pend);
        assert_eq!(of(any, Some(&pending(0))), Step::Nothing);
        // It was granted something, and is gone from there.
        assert_eq!(of(one, None), Step::Pend);
        assert_eq!(of(one, Some(&pending(0))), Step::Pend);
        for state in [State::Absent, any, one] {
            assert_eq!(of(state, Some(&pod(0, &["192.0.2.1"]))), Step::LeaveAlone);
            let place = Step::Place(PolicyId(3));
            assert_eq!(of(state, Some(&pod(3, &[]))), place);
            // What is known of its grants is served.
            assert_eq!(of(state, Some(&pending(3))), place);
        }
    }

    #[test]
    fn what_was_left_alone_stays_so_until_it_is_granted_something() {
        let left = |state, pod: Option<Pod>| {
            step(Facts {
                state,
                left_alone: true,
                is_stranger: false,
                loses: false,
                pod: pod.as_ref(),
            })
        };
        for pod in [None, Some(pending(0)), Some(pod(0, &[]))] {
            assert_eq!(left(State::Absent, pod), Step::Nothing);
        }
        let granted = left(State::Absent, Some(pod(3, &[])));
        assert_eq!(granted, Step::Place(PolicyId(3)));
        // Granted something for a moment, and nothing again before it was served.
        let one = State::Pending(Some(PolicyId(3)));
        assert_eq!(left(one, Some(pod(0, &[]))), Step::LeaveAlone);
    }

    #[test]
    fn a_stranger_is_left_alone() {
        let strange = |state, left_alone| {
            step(Facts {
                state,
                left_alone,
                is_stranger: true,
                loses: false,
                pod: None,
            })
        };
        assert_eq!(strange(State::Pending(None), false), Step::LeaveAlone);
        assert_eq!(strange(State::Absent, false), Step::LeaveAlone);
        assert_eq!(strange(State::Absent, true), Step::Nothing);
    }

    #[test]
    fn the_place_is_verified_once_the_address_is_known() {
        let known = pod(3, &["192.0.2.1"]);
        assert_eq!(of(enrolled(3, false), Some(&pod(3, &[]))), Step::Nothing);
        let again = of(enrolled(3, false), Some(&known));
        assert_eq!(again, Step::Place(PolicyId(3)));
        assert_eq!(of(enrolled(3, true), Some(&known)), Step::Nothing);
    }

    #[test]
    fn grants_that_change_or_go_change_the_policy() {
        let known = pod(4, &["192.0.2.1"]);
        let other = of(enrolled(3, true), Some(&known));
        assert_eq!(other, Step::Policy(PolicyId(4)));
        assert_eq!(of(enrolled(3, true), None), Step::Policy(PolicyId(0)));
        assert_eq!(of(enrolled(0, true), None), Step::Nothing);
        // What was taken away does not wait for the place.
        let unverified = of(enrolled(3, false), Some(&known));
        assert_eq!(unverified, Step::Policy(PolicyId(4)));
        // Questions that are open take nothing away from who is served.
        for policy in [0, 3, 4] {
            let step = losing(enrolled(3, true), &pending(policy));
            assert_eq!(step, Step::Nothing, "{policy}");
        }
        assert_eq!(losing(enrolled(3, true), &known), Step::Policy(PolicyId(4)));
        // What is answered counts while the rest is open.
        let answered = of(enrolled(3, true), Some(&pending(4)));
        assert_eq!(answered, Step::Policy(PolicyId(4)));
        let more = of(enrolled(0, true), Some(&pending(3)));
        assert_eq!(more, Step::Policy(PolicyId(3)));
        // Its place can be verified nevertheless, under the policy that it has.
        let placed = Pod {
            pending: true,
            ..known
        };
        let place = losing(enrolled(3, false), &placed);
        assert_eq!(place, Step::Place(PolicyId(3)));
    }

    #[test]
    fn only_a_controller_that_speaks_makes_a_stranger() {
        let start = Instant::now();
        let later = start + Duration::from_mins(5);
        assert_eq!(stranger_from(start, None), None);
        let from = |since, told| stranger_from(since, Some(told));
        assert_eq!(from(start, later), Some(later + limits::UNKNOWN_POD));
        assert_eq!(from(later, start), Some(later + limits::UNKNOWN_POD));
    }
}
