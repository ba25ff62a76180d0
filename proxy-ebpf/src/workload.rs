//! Who is behind a connection or a packet.

use proxy_common::maps::{Config, Workload, WorkloadKey};

use crate::maps::WORKLOADS;

/// Finds the enrolled workload among the cgroups that `ancestor` gives for a level (0: the
/// cgroup lives higher up), so that cgroups nested below the workload's own count as the
/// workload.
#[inline(always)]
pub(crate) fn find(config: &Config, ancestor: impl Fn(i32) -> u64) -> Option<(u64, Workload)> {
    for level in config.levels {
        if level == 0 {
            break;
        }
        let cgroup_id = ancestor(i32::from(level));
        if cgroup_id == 0 {
            break;
        }
        // SAFETY: copied at once.
        if let Some(workload) = unsafe { WORKLOADS.get(WorkloadKey { cgroup_id }) } {
            return Some((cgroup_id, *workload));
        }
    }
    None
}
