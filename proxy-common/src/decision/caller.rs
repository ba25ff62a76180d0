//! Who is behind a connection or a packet.

use crate::maps::{Config, Workload};

/// The cgroups of a caller, and those that are workloads.
pub trait Callers {
    /// Id of the cgroup at this depth in which the caller lives, nested ones included; 0 if it
    /// lives higher up.
    fn ancestor(&self, level: u8) -> u64;
    /// An entry of `WORKLOADS`.
    fn workload(&self, cgroup_id: u64) -> Option<Workload>;
}

/// A workload that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Id of the workload's own cgroup.
    pub cgroup_id: u64,
    /// Its depth in the tree.
    pub level: u8,
    /// What is known of it.
    pub workload: Workload,
}

/// Finds the workload among the caller's cgroups, so that those nested below the workload's own
/// count as the workload.
#[inline(always)]
pub fn caller(callers: &impl Callers, config: &Config) -> Option<Caller> {
    for level in config.levels {
        if level == 0 {
            break;
        }
        let cgroup_id = callers.ancestor(level);
        if cgroup_id == 0 {
            break;
        }
        if let Some(workload) = callers.workload(cgroup_id) {
            return Some(Caller {
                cgroup_id,
                level,
                workload,
            });
        }
    }
    None
}
