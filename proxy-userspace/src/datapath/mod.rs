//! The kernel half, seen from user space: loading, attaching, and the maps.

mod error;
mod features;
mod flows;
mod learning;
mod load;
mod mirror;
mod pins;

pub use error::DatapathError;
pub use features::Features;
pub use flows::FlowTable;
pub use pins::{Pins, Unloaded, unload};

use std::{
    collections::HashSet,
    fs::File,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use proxy_common::maps::{
    Config, Credential, CredentialKey, Destination, DestinationKey, HostnameKey, Stats, Workload,
    WorkloadKey,
};

use learning::Learning;
use mirror::Mirror;

/// The programs, their links and their maps. Dropping it detaches everything, unless it is
/// pinned.
pub struct Datapath {
    ebpf: Ebpf,
    workloads: Mirror<WorkloadKey, Workload>,
    destinations: Mirror<DestinationKey, Destination>,
    credentials: Mirror<CredentialKey, Credential>,
    learning: Learning,
    config: Array<MapData, Config>,
    stats: PerCpuArray<MapData, Stats>,
    settings: Config,
    pins: Option<Pins>,
    /// Nobody serves the workloads in the maps: their agent is gone. Until they are enrolled
    /// anew the kernel goes on to treat them so.
    orphaned: bool,
    /// Ids of the cgroups that the pinned programs were attached to.
    attached: HashSet<u64>,
}

impl Datapath {
    /// Loads programs and maps; attaches nothing yet.
    ///
    /// `levels` are the depths below the root of the cgroup tree at which workloads live, at
    /// most [`proxy_common::maps::MAX_LEVELS`]; `grace_ns` is the age of a heartbeat from
    /// which Postern counts as gone.
    pub fn load(levels: &[u8], grace_ns: u64) -> Result<(Self, FlowTable), DatapathError> {
        Self::open(levels, grace_ns, None)
    }

    /// The same with maps and links that outlive this process: those that an earlier one
    /// left are taken over as they are.
    pub fn load_pinned(
        levels: &[u8],
        grace_ns: u64,
        pins: Pins,
    ) -> Result<(Self, FlowTable), DatapathError> {
        Self::open(levels, grace_ns, Some(pins))
    }

    fn open(
        levels: &[u8],
        grace_ns: u64,
        pins: Option<Pins>,
    ) -> Result<(Self, FlowTable), DatapathError> {
        let features = Features::probe();
        let mut ebpf = load::object(pins.as_ref(), features)?;
        features.log_missing(&error::running_kernel());
        let mut settings = Config {
            heartbeat_ns: monotonic_ns()?,
            grace_ns,
            abi: proxy_common::maps::ABI,
            pad: 0,
            levels: [0; proxy_common::maps::MAX_LEVELS],
            owner: pins.as_ref().map_or(0, Pins::owner),
        };
        for (place, level) in settings.levels.iter_mut().zip(levels) {
            *place = *level;
        }
        let flows = FlowTable::new(load::map(&mut ebpf, "FLOWS")?);
        let mut datapath = Self {
            workloads: mirror(&mut ebpf, "WORKLOADS")?,
            destinations: mirror(&mut ebpf, "DESTINATIONS")?,
            credentials: mirror(&mut ebpf, "CREDENTIALS")?,
            learning: Learning::open(&mut ebpf)?,
            config: load::map(&mut ebpf, "CONFIG")?,
            stats: load::map(&mut ebpf, "STATS")?,
            ebpf,
            settings,
            orphaned: pins.as_ref().is_some_and(|pins| !pins.handed_over()),
            pins,
            attached: HashSet::new(),
        };
        datapath.orphaned &= datapath.workloads.keys().next().is_some();
        if datapath.orphaned {
            datapath.settings.heartbeat_ns = datapath.read_config()?.heartbeat_ns;
        }
        datapath.write_config()?;
        Ok((datapath, flows))
    }

    /// Has the kernel verify the programs, with maps of their own that go at once.
    pub fn verify() -> Result<(), DatapathError> {
        load::object(None, Features::probe()).map(drop)
    }

    /// Attaches every program to a cgroup, or none of them.
    pub fn attach(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        if let Some(pins) = &self.pins {
            let id = cgroup_id(&cgroup)?;
            load::attach_pinned(&mut self.ebpf, &load::PROGRAMS, cgroup.as_fd(), id, pins)?;
            self.attached.insert(id);
            return Ok(());
        }
        let attached = load::attach(&mut self.ebpf, cgroup.as_fd());
        if attached.is_err() {
            load::detach(&mut self.ebpf);
        }
        attached
    }

    /// Makes a workload's connections subject to `workload.policy`. Fails with
    /// [`DatapathError::Full`] when there is no room for another workload.
    pub fn enrol(&mut self, cgroup_id: u64, workload: Workload) -> Result<(), DatapathError> {
        self.workloads.put(WorkloadKey { cgroup_id }, workload)?;
        self.adopt()
    }

    /// Has a workload's DNS answers looked at once it is [enrolled](Self::enrol); `cgroup` is
    /// the directory of its cgroup.
    pub fn learn(&mut self, cgroup_id: u64, cgroup: &Path) -> Result<(), DatapathError> {
        let directory = File::open(cgroup).map_err(DatapathError::pins("open", cgroup))?;
        if self::cgroup_id(&directory)? != cgroup_id {
            return Err(DatapathError::OtherCgroup {
                path: cgroup.to_path_buf(),
            });
        }
        let pins = self.pins.as_ref();
        self.learning
            .admit(cgroup_id, directory.as_fd(), &mut self.ebpf, pins)
    }

    /// Leaves a workload's connections alone from now on, and forgets what it learned.
    pub fn withdraw(&mut self, cgroup_id: u64) -> Result<(), DatapathError> {
        self.workloads.remove(&WorkloadKey { cgroup_id })?;
        self.learning.dismiss(cgroup_id, self.pins.as_ref())
    }

    /// Withdraws the workloads that are not wanted, and detaches from the cgroups that the
    /// programs were not attached to since this was loaded.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), DatapathError> {
        self.workloads.retain(|key| wanted(key.cgroup_id))?;
        self.learning.retain(&wanted, self.pins.as_ref())?;
        self.adopt()?;
        let is_learner = |hook: &str| load::LEARNERS.iter().any(|(name, _)| *name == hook);
        match &self.pins {
            Some(pins) => pins.retain_links(|hook, cgroup| {
                if is_learner(hook) {
                    wanted(cgroup)
                } else {
                    self.attached.contains(&cgroup)
                }
            }),
            None => Ok(()),
        }
    }

    /// The kernel's entry of a workload, whoever wrote it.
    pub fn workload(&self, cgroup_id: u64) -> Result<Option<Workload>, DatapathError> {
        self.workloads.read(&WorkloadKey { cgroup_id })
    }

    /// Replaces what is redirected; entries that stay are not interrupted. Returns those for
    /// which there is no room, which are the last ones.
    pub fn set_destinations(
        &mut self,
        wanted: &[(DestinationKey, Destination)],
    ) -> Result<Vec<DestinationKey>, DatapathError> {
        // What goes makes room for what comes.
        let keep: HashSet<_> = wanted.iter().map(|(key, _)| *key).collect();
        self.destinations.retain(|key| keep.contains(key))?;
        self.add_destinations(wanted)
    }

    /// Adds to what is redirected. Returns the entries for which there is no room.
    pub fn add_destinations(
        &mut self,
        wanted: &[(DestinationKey, Destination)],
    ) -> Result<Vec<DestinationKey>, DatapathError> {
        mirror::put_all(&mut self.destinations, wanted)
    }

    /// Replaces the hosts whose addresses are learned. Returns those for which there is no room.
    pub fn set_hostnames(
        &mut self,
        wanted: &[(HostnameKey, Destination)],
    ) -> Result<Vec<HostnameKey>, DatapathError> {
        self.learning.set_hostnames(wanted)
    }

    /// Adds to the hosts whose addresses are learned. Returns those for which there is no room.
    pub fn add_hostnames(
        &mut self,
        wanted: &[(HostnameKey, Destination)],
    ) -> Result<Vec<HostnameKey>, DatapathError> {
        self.learning.add_hostnames(wanted)
    }

    /// Forgets addresses that were learned long ago, and makes room for workloads that have
    /// learned as many as they may. Cheap when there is nothing to do.
    pub fn tidy(&mut self) -> Result<(), DatapathError> {
        let full = self.stats()?.learned_full;
        self.learning.tidy(full, monotonic_ns()?)
    }

    /// Whether anything is redirected, or may come to be.
    pub fn has_destinations(&self) -> bool {
        self.destinations.keys().next().is_some() || self.learning.has_hostnames()
    }

    /// Tells the kernel whether a Connector's credential may be used. Fails with
    /// [`DatapathError::Full`] when there is no room for another Connector.
    pub fn set_credential(
        &mut self,
        connector: u32,
        credential: Credential,
    ) -> Result<(), DatapathError> {
        self.credentials
            .put(CredentialKey { connector }, credential)
    }

    /// Forgets the credentials of Connectors that are not wanted.
    pub fn retain_credentials(
        &mut self,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<(), DatapathError> {
        self.credentials.retain(|key| wanted(key.connector))
    }

    /// Whether another agent wants to write the maps.
    pub fn is_claimed(&self) -> Result<bool, DatapathError> {
        if self.pins.is_none() {
            return Ok(false);
        }
        Ok(self.read_config()?.owner != self.settings.owner)
    }

    /// Gives up the right to write. Nothing may be written from here on.
    pub fn release(&mut self) {
        self.pins = None;
    }

    /// The sign of life without which the kernel stops redirecting. There is none before the
    /// first workload of an earlier agent that is gone was enrolled anew.
    pub fn heartbeat(&mut self) -> Result<(), DatapathError> {
        if self.orphaned {
            return Ok(());
        }
        self.settings.heartbeat_ns = monotonic_ns()?;
        self.write_config()
    }

    /// Changes the age of a sign of life from which Postern counts as gone, and gives one.
    pub fn set_grace(&mut self, grace_ns: u64) -> Result<(), DatapathError> {
        self.settings.grace_ns = grace_ns;
        self.heartbeat()
    }

    /// Tells the kernel that nobody serves from now on, without making it wait.
    pub fn rest(&mut self) -> Result<(), DatapathError> {
        self.settings.heartbeat_ns = 0;
        self.write_config()
    }

    /// The kernel's counters, summed over all processors.
    pub fn stats(&self) -> Result<Stats, DatapathError> {
        let per_cpu = self
            .stats
            .get(&0, 0)
            .map_err(|source| DatapathError::map("STATS", source))?;
        Ok(per_cpu.iter().fold(Stats::default(), add))
    }

    fn adopt(&mut self) -> Result<(), DatapathError> {
        if std::mem::take(&mut self.orphaned) {
            self.heartbeat()?;
        }
        Ok(())
    }

    fn read_config(&self) -> Result<Config, DatapathError> {
        self.config
            .get(&0, 0)
            .map_err(|source| DatapathError::map("CONFIG", source))
    }

    fn write_config(&mut self) -> Result<(), DatapathError> {
        self.config
            .set(0, self.settings, 0)
            .map_err(|source| DatapathError::map("CONFIG", source))
    }
}

fn mirror<K, V>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mirror<K, V>, DatapathError>
where
    K: aya::Pod + Eq + std::hash::Hash,
    V: aya::Pod + PartialEq,
{
    Mirror::new(name, load::map(ebpf, name)?)
}

/// What `bpf_get_current_cgroup_id` returns in a cgroup: the inode number of its directory.
fn cgroup_id(cgroup: &impl AsFd) -> Result<u64, DatapathError> {
    let found = nix::sys::stat::fstat(cgroup).map_err(|errno| {
        DatapathError::pins("read the id of", Path::new("a cgroup"))(errno.into())
    })?;
    Ok(found.st_ino)
}

/// The form in which the maps hold addresses.
pub fn map_address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address behind [`map_address`].
pub fn ip_address(addr: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(addr).to_canonical()
}

/// The clock of the heartbeat.
fn monotonic_ns() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(DatapathError::Clock)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or_default();
    Ok(seconds * 1_000_000_000 + nanos)
}

fn add(sum: Stats, cpu: &Stats) -> Stats {
    Stats {
        connects: sum.connects + cpu.connects,
        untouched: sum.untouched + cpu.untouched,
        redirected: sum.redirected + cpu.redirected,
        bypassed: sum.bypassed + cpu.bypassed,
        refused_cred: sum.refused_cred + cpu.refused_cred,
        refused_stale: sum.refused_stale + cpu.refused_stale,
        refused_sock: sum.refused_sock + cpu.refused_sock,
        refused_mem: sum.refused_mem + cpu.refused_mem,
        flows: sum.flows + cpu.flows,
        flows_lost: sum.flows_lost + cpu.flows_lost,
        dns_answers: sum.dns_answers + cpu.dns_answers,
        dns_ignored: sum.dns_ignored + cpu.dns_ignored,
        learned: sum.learned + cpu.learned,
        learned_full: sum.learned_full + cpu.learned_full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_maps() {
        for ip in ["192.0.2.7", "2001:db8::7", "::1"] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(ip_address(map_address(ip)), ip);
        }
    }
}
