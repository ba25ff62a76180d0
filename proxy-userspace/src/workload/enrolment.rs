//! A workload as its open connections know it.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

use super::{Egress, PolicyId, Workload};

/// A workload that is being served. All its connections share it, so what changes here
/// reaches them.
#[derive(Debug)]
pub struct Enrolment {
    /// Id of the workload's own cgroup.
    pub cgroup_id: u64,
    /// How messages call it.
    pub name: String,
    /// Where its connections leave from.
    pub egress: Egress,
    policy: AtomicU32,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    WindingDown,
    Ended,
}

impl Enrolment {
    /// Starts serving a workload whose connections leave through `egress`.
    pub fn new(workload: Workload, egress: Egress) -> Self {
        Self {
            cgroup_id: workload.cgroup_id,
            name: workload.name,
            egress,
            policy: AtomicU32::new(workload.policy.0),
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    /// What it is granted, as of now.
    pub fn policy(&self) -> PolicyId {
        PolicyId(self.policy.load(Ordering::Relaxed))
    }

    /// Grants something else to connections and requests to come.
    pub fn set_policy(&self, policy: PolicyId) {
        self.policy.store(policy.0, Ordering::Relaxed);
    }

    /// Asks open connections to end as soon as the request that they are at is answered.
    pub fn wind_down(&self) {
        self.advance(Phase::WindingDown);
    }

    /// Whether [`wind_down`](Self::wind_down) was called.
    pub fn is_winding_down(&self) -> bool {
        *self.phase.borrow() >= Phase::WindingDown
    }

    /// Waits for [`wind_down`](Self::wind_down).
    pub async fn winding_down(&self) {
        self.reached(Phase::WindingDown).await;
    }

    /// Ends open connections where they are; none is kept for it any more.
    pub fn end(&self) {
        self.egress.close();
        self.advance(Phase::Ended);
    }

    /// Waits for [`end`](Self::end).
    pub async fn ended(&self) {
        self.reached(Phase::Ended).await;
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    async fn reached(&self, wanted: Phase) {
        // The sender is `self`, so the wait cannot fail.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase >= wanted)
            .await;
    }
}
