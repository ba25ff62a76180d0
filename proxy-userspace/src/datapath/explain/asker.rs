//! What the decision depends on, as the pinned maps have it.

use std::cell::RefCell;

use proxy_common::{
    decision::{Callers, Facts},
    maps::{
        Config, Credential, Destination, DestinationKey, HostnameKey, Learned, LearnedKey,
        NAMES_PER_ADDRESS, Workload,
    },
};

use super::{super::DatapathError, view::View};
use crate::{
    datapath::{boot_ns, monotonic_ns},
    workload::Lineage,
};

/// A process in a cgroup, as the decision sees it.
pub(super) struct Asker<'a> {
    view: &'a View,
    lineage: &'a Lineage,
    config: Config,
    /// Levels above the highest cgroup that can be seen from here.
    hidden: usize,
    monotonic_ns: u64,
    boot_ns: u64,
    /// The first map that could not be read.
    trouble: RefCell<Option<DatapathError>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(view: &'a View, lineage: &'a Lineage) -> Result<Self, DatapathError> {
        let config = view.config()?;
        let mut workload = None;
        for (depth, id) in lineage.ids().iter().enumerate() {
            if view.workload(*id)?.is_some() {
                workload = Some(depth);
            }
        }
        Ok(Self {
            view,
            lineage,
            config,
            hidden: hidden(lineage.sees_root(), &config, workload),
            monotonic_ns: monotonic_ns()?,
            boot_ns: boot_ns()?,
            trouble: RefCell::default(),
        })
    }

    pub(super) fn settings(&self) -> &Config {
        &self.config
    }

    /// Fails if something could not be read.
    pub(super) fn trouble(self) -> Result<(), DatapathError> {
        self.trouble.into_inner().map_or(Ok(()), Err)
    }

    fn read<T>(&self, result: Result<Option<T>, DatapathError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.trouble.borrow_mut().get_or_insert(error);
            None
        })
    }
}

/// How many levels cannot be seen: none, or as many as put a workload at one of the levels
/// at which the kernel looks for workloads.
fn hidden(sees_root: bool, config: &Config, workload: Option<usize>) -> usize {
    let Some(depth) = workload.filter(|_| !sees_root) else {
        return 0;
    };
    let mut levels = config.levels.iter().map(|level| usize::from(*level));
    levels
        .find_map(|level| level.checked_sub(depth))
        .unwrap_or_default()
}

impl Callers for Asker<'_> {
    fn ancestor(&self, level: u8) -> u64 {
        let place = usize::from(level).checked_sub(self.hidden);
        let id = place.and_then(|place| self.lineage.ids().get(place));
        id.copied().unwrap_or_default()
    }

    fn workload(&self, cgroup_id: u64) -> Option<Workload> {
        self.read(self.view.workload(cgroup_id))
    }
}

impl Facts for Asker<'_> {
    type Learned = Learned;

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn destination(&self, key: DestinationKey) -> Option<Destination> {
        self.read(self.view.destination(&key))
    }

    fn hostname(&self, key: HostnameKey) -> Option<Destination> {
        self.read(self.view.hostname(&key))
    }

    fn learned(&self, key: LearnedKey) -> Option<Learned> {
        self.read(self.view.learned(&key))
    }

    fn names(&self, learned: Learned) -> [u64; NAMES_PER_ADDRESS] {
        learned.names
    }

    /// It is only asked about.
    fn dialled(&self, _: Learned) {}

    fn credential(&self, connector: u32) -> Option<Credential> {
        self.read(self.view.credential(connector))
    }

    /// Nothing is known of the socket, and hardly any is.
    fn is_bound_to_device(&self) -> bool {
        false
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns
    }

    fn boot_ns(&self) -> u64 {
        self.boot_ns
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::maps::{ABI, MAX_LEVELS};

    use super::*;

    #[test]
    fn hidden_levels_follow_from_where_a_workload_is() {
        let mut levels = [0; MAX_LEVELS];
        levels[..3].copy_from_slice(&[2, 3, 4]);
        let config = Config {
            heartbeat_ns: 0,
            grace_ns: 0,
            abi: ABI,
            pad: 0,
            levels,
            owner: 0,
        };
        assert_eq!(hidden(true, &config, Some(1)), 0);
        assert_eq!(hidden(false, &config, None), 0);
        assert_eq!(hidden(false, &config, Some(1)), 1);
        assert_eq!(hidden(false, &config, Some(3)), 0);
        assert_eq!(hidden(false, &config, Some(9)), 0);
    }
}
