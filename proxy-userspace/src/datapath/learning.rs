//! Which host names are wanted, what workloads learned about them from their DNS answers, and
//! the programs that the cgroup of each workload has for itself.
//!
//! The kernel adds entries to `LEARNED` and counts them; everything else is done here: shares,
//! and what is removed. Entries have no life of their own, because programs that resolve a
//! name once and dial for days exist. They go with their workload, after
//! [`limits::LEARNED_LIFE`] without being told or dialled, and, the oldest first, when
//! the workload has used up its share.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::BorrowedFd,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData, MapError},
    programs::links::FdLink,
};
use proxy_common::maps::{
    Budget, Destination, HostnameKey, LEARNED_PER_WORKLOAD, Learned, LearnedKey, MAX_LEARNED,
    WorkloadKey,
};
use tokio::time::Instant;

use super::{
    DatapathError, Pins, attach,
    leftovers::Leftovers,
    load,
    mirror::{self, Mirror},
};
use crate::limits;

/// The maps and links of learning.
pub(super) struct Learning {
    hostnames: Mirror<HostnameKey, Destination>,
    learned: BpfHashMap<MapData, LearnedKey, Learned>,
    budgets: BpfHashMap<MapData, WorkloadKey, Budget>,
    leftovers: Leftovers,
    /// Of workloads whose programs end with this process.
    links: HashMap<u64, Vec<FdLink>>,
    /// The share of each workload; 0 before the first one.
    limit: u64,
    /// What `learned_full` counted at the last look.
    full: u64,
    swept: Instant,
}

impl Learning {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let leftovers = Leftovers::open(ebpf)?;
        Ok(Self {
            leftovers,
            hostnames: super::mirror(ebpf, "HOSTNAMES")?,
            learned: load::map(ebpf, "LEARNED")?,
            budgets: load::map(ebpf, "BUDGETS")?,
            links: HashMap::new(),
            limit: 0,
            full: 0,
            swept: Instant::now(),
        })
    }

    pub(super) fn add_hostnames(
        &mut self,
        wanted: &[(HostnameKey, Destination)],
    ) -> Result<Vec<HostnameKey>, DatapathError> {
        mirror::put_all(&mut self.hostnames, wanted)
    }

    pub(super) fn set_hostnames(
        &mut self,
        wanted: &[(HostnameKey, Destination)],
    ) -> Result<Vec<HostnameKey>, DatapathError> {
        let keep: HashSet<_> = wanted.iter().map(|(key, _)| *key).collect();
        self.hostnames.retain(|key| keep.contains(key))?;
        self.add_hostnames(wanted)
    }

    pub(super) fn has_hostnames(&self) -> bool {
        self.hostnames.keys().next().is_some()
    }

    /// Attaches the programs of a workload, one of which learns. One that has learned already
    /// keeps that.
    pub(super) fn admit(
        &mut self,
        cgroup_id: u64,
        cgroup: BorrowedFd<'_>,
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
    ) -> Result<(), DatapathError> {
        let key = WorkloadKey { cgroup_id };
        self.leftovers.keep(cgroup_id);
        let known = self.budget(key)?;
        let workloads = self.workloads()?;
        self.share_out(workloads.len() + usize::from(known.is_none()))?;
        if known.is_none() {
            self.set_budget(key, 0)?;
        }
        if let Some(pins) = pins {
            return attach::attach_pinned(ebpf, &load::OF_WORKLOAD, cgroup, cgroup_id, pins);
        }
        let links = load::attach_to_workload(ebpf, cgroup)?;
        // Those before, if there are some, are detached.
        self.links.insert(cgroup_id, links);
        Ok(())
    }

    /// Has a workload learn no more, and forgets soon what it learned.
    pub(super) fn dismiss(
        &mut self,
        cgroup_id: u64,
        pins: Option<&Pins>,
    ) -> Result<(), DatapathError> {
        self.links.remove(&cgroup_id);
        if let Some(pins) = pins {
            for (name, _) in load::OF_WORKLOAD {
                // Not there is as good as removed.
                let _ = fs::remove_file(pins.link(name, cgroup_id));
            }
        }
        let key = WorkloadKey { cgroup_id };
        let Some(budget) = self.budget(key)? else {
            return Ok(());
        };
        // Without a budget the kernel adds nothing.
        gone(self.budgets.remove(&key)).map_err(map_error("BUDGETS"))?;
        if budget.used > 0 {
            self.leftovers.remove(cgroup_id);
        }
        Ok(())
    }

    /// Has those workloads learn no more that are not wanted.
    pub(super) fn retain(
        &mut self,
        wanted: impl Fn(u64) -> bool,
        pins: Option<&Pins>,
    ) -> Result<(), DatapathError> {
        for key in self.workloads()? {
            if !wanted(key.cgroup_id) {
                self.dismiss(key.cgroup_id, pins)?;
            }
        }
        Ok(())
    }

    /// Removes what is old, when it is time or when a workload has used up its share.
    ///
    /// `full` is the kernel's counter `learned_full`, `now_ns` its clock.
    pub(super) fn tidy(&mut self, full: u64, now_ns: u64) -> Result<(), DatapathError> {
        if full == self.full && self.swept.elapsed() < limits::LEARNED_SWEEP {
            return Ok(());
        }
        self.full = full;
        self.swept = Instant::now();
        let life = u64::try_from(limits::LEARNED_LIFE.as_nanos()).unwrap_or(u64::MAX);
        let mut all = self.entries()?;
        for key in self.workloads()? {
            let mut entries = all.remove(&key.cgroup_id).unwrap_or_default();
            // The youngest first.
            entries.sort_unstable_by_key(|(_, seen_ns)| std::cmp::Reverse(*seen_ns));
            let keep = kept(&entries, self.limit, now_ns.saturating_sub(life));
            self.forget(&entries[keep..])?;
            self.set_budget(key, u64::try_from(keep).unwrap_or(u64::MAX))?;
        }
        // What was told at the moment in which its workload went.
        self.forget(all.values().flatten())
    }

    /// All that was learned, by workload, each entry with the time when it was last used.
    fn entries(&self) -> Result<HashMap<u64, Vec<(LearnedKey, u64)>>, DatapathError> {
        let mut all: HashMap<u64, Vec<_>> = HashMap::new();
        for entry in &self.learned {
            let (key, learned) = entry.map_err(map_error("LEARNED"))?;
            let entries = all.entry(key.workload).or_default();
            entries.push((key, learned.seen_ns));
        }
        Ok(all)
    }

    fn forget<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a (LearnedKey, u64)>,
    ) -> Result<(), DatapathError> {
        for (key, _) in entries {
            gone(self.learned.remove(key)).map_err(map_error("LEARNED"))?;
        }
        Ok(())
    }

    fn workloads(&self) -> Result<Vec<WorkloadKey>, DatapathError> {
        let keys = self.budgets.keys().collect::<Result<_, _>>();
        keys.map_err(map_error("BUDGETS"))
    }

    /// Gives every workload the same share.
    fn share_out(&mut self, workloads: usize) -> Result<(), DatapathError> {
        let limit = share(workloads);
        if limit == self.limit {
            return Ok(());
        }
        self.limit = limit;
        for key in self.workloads()? {
            if let Some(budget) = self.budget(key)? {
                self.set_budget(key, budget.used)?;
            }
        }
        Ok(())
    }

    fn budget(&self, key: WorkloadKey) -> Result<Option<Budget>, DatapathError> {
        match self.budgets.get(&key, 0) {
            Ok(budget) => Ok(Some(budget)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(DatapathError::map("BUDGETS", source)),
        }
    }

    fn set_budget(&mut self, key: WorkloadKey, used: u64) -> Result<(), DatapathError> {
        let budget = Budget {
            used,
            limit: self.limit,
        };
        let put = self.budgets.insert(key, budget, 0);
        put.map_err(map_error("BUDGETS"))
    }
}

/// How many entries each of `workloads` may have: so many that all fit, whatever each does.
fn share(workloads: usize) -> u64 {
    // In steps, so that a workload more does not mean new shares for all.
    let parts = workloads
        .next_power_of_two()
        .max(MAX_LEARNED / LEARNED_PER_WORKLOAD);
    u64::try_from(MAX_LEARNED / parts).unwrap_or(u64::MAX)
}

/// How many of a workload's entries stay, of which the youngest is the first.
fn kept(entries: &[(LearnedKey, u64)], limit: u64, oldest_ns: u64) -> usize {
    let alive = entries.partition_point(|(_, seen_ns)| *seen_ns >= oldest_ns);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // Room for more than one, or it would be full again at once.
    if alive < limit { alive } else { limit / 2 }
}

/// Not there is as good as removed: nobody but the kernel knows what it has added.
pub(super) fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::map(name, source)
}

#[cfg(test)]
mod tests {
    use proxy_common::maps::MAX_WORKLOADS;

    use super::*;

    #[test]
    fn shares_always_fit() {
        assert_eq!(share(1), LEARNED_PER_WORKLOAD as u64);
        for workloads in 1..=MAX_WORKLOADS {
            let share = share(workloads);
            assert!(share >= 16, "{workloads} workloads");
            assert!(share * workloads as u64 <= MAX_LEARNED as u64);
        }
    }

    #[test]
    fn the_old_go_first_and_half_of_the_share_stays() {
        let key = LearnedKey {
            workload: 1,
            addr: [0; 16],
        };
        let entries: Vec<_> = (0..8u64).rev().map(|seen| (key, seen)).collect();
        assert_eq!(kept(&entries, 256, 0), 8);
        assert_eq!(kept(&entries, 256, 5), 3);
        assert_eq!(kept(&entries, 8, 0), 4);
        assert_eq!(kept(&entries, 8, 6), 2);
        assert_eq!(kept(&[], 8, 6), 0);
    }
}
