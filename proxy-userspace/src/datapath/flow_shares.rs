//! How many redirected connections each workload may have open. The kernel counts them; all that
//! is done here is to say who is counted, and what everybody's share is.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use proxy_common::maps::{FLOWS_PER_WORKLOAD, FlowCount, MAX_FLOWS, WorkloadKey};

use super::{DatapathError, learning::gone, load};

/// The maps that share out `FLOWS`.
pub(super) struct FlowShares {
    counts: HashMap<MapData, WorkloadKey, FlowCount>,
    limit: Array<MapData, i64>,
    /// Who is counted.
    workloads: HashSet<WorkloadKey>,
}

impl FlowShares {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let counts: HashMap<_, _, _> = load::map(ebpf, COUNTS)?;
        let workloads = counts.keys().collect::<Result<_, _>>();
        let mut shares = Self {
            workloads: workloads.map_err(|source| DatapathError::map(COUNTS, source))?,
            counts,
            limit: load::map(ebpf, LIMIT)?,
        };
        shares.share_out()?;
        Ok(shares)
    }

    /// Has a workload's connections counted. Of one that is counted already the count stays.
    pub(super) fn admit(&mut self, cgroup_id: u64) -> Result<(), DatapathError> {
        let key = WorkloadKey { cgroup_id };
        if self.workloads.contains(&key) {
            return Ok(());
        }
        let none = FlowCount { open: 0 };
        self.counts
            .insert(key, none, 0)
            .map_err(|source| DatapathError::put(COUNTS, source))?;
        self.workloads.insert(key);
        self.share_out()
    }

    /// Counts a workload's connections no more; those that are open end uncounted.
    pub(super) fn dismiss(&mut self, cgroup_id: u64) -> Result<(), DatapathError> {
        let key = WorkloadKey { cgroup_id };
        if !self.workloads.contains(&key) {
            return Ok(());
        }
        gone(self.counts.remove(&key)).map_err(|source| DatapathError::map(COUNTS, source))?;
        self.workloads.remove(&key);
        self.share_out()
    }

    /// Dismisses the workloads that are not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), DatapathError> {
        let ids = self.workloads.iter().map(|key| key.cgroup_id);
        let gone: Vec<_> = ids.filter(|id| !wanted(*id)).collect();
        gone.into_iter().try_for_each(|id| self.dismiss(id))
    }

    fn share_out(&mut self) -> Result<(), DatapathError> {
        self.limit
            .set(0, share(self.workloads.len()), 0)
            .map_err(|source| DatapathError::map(LIMIT, source))
    }
}

const COUNTS: &str = "FLOW_COUNTS";
const LIMIT: &str = "FLOW_LIMIT";

/// How many connections each of `workloads` may have open: so many that all fit, whatever each
/// does.
fn share(workloads: usize) -> i64 {
    // In steps, so that few of those that are open count as too many when a workload comes.
    let parts = workloads
        .next_power_of_two()
        .max(MAX_FLOWS / FLOWS_PER_WORKLOAD);
    i64::try_from(MAX_FLOWS / parts).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proxy_common::maps::MAX_WORKLOADS;

    use super::*;
    use crate::limits::CONNECTIONS_PER_WORKLOAD;

    #[test]
    fn shares_always_fit() {
        for workloads in 1..=MAX_WORKLOADS {
            let share = usize::try_from(share(workloads)).expect("positive");
            assert!((128..=FLOWS_PER_WORKLOAD).contains(&share), "{workloads}");
            assert!(share * workloads <= MAX_FLOWS);
        }
    }

    #[test]
    fn on_an_ordinary_node_the_listener_is_the_narrower_limit() {
        /// What a kubelet runs unless it is told otherwise.
        const PODS: usize = 110;
        let share = usize::try_from(share(PODS)).expect("positive");
        assert!(share >= CONNECTIONS_PER_WORKLOAD);
    }
}
