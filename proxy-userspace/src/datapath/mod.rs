//! The kernel half, seen from user space: loading, attaching, and the maps.

mod attach;
mod claim;
mod directory;
mod error;
pub mod explain;
mod features;
mod flow_shares;
mod flows;
mod learning;
mod leftovers;
mod load;
mod mirror;
mod pins;
mod predecessor;
mod succession;
mod sys;

pub use directory::{Unloaded, unload};
pub use error::DatapathError;
pub use features::Features;
pub use flows::FlowTable;
pub use pins::{GaveWay, Pins, Succession, ensure_alone, is_deserted};

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
    Config, Credential, CredentialKey, Destination, DestinationKey, HostnameKey, POLICY_ANY, Stats,
    WORKLOAD_PENDING, Workload, WorkloadKey,
};

use flow_shares::FlowShares;
use learning::Learning;
use mirror::Mirror;

/// A workload that is known and not served.
const PENDING: Workload = Workload {
    policy: POLICY_ANY,
    port_v4: 0,
    port_v6: 0,
    flags: WORKLOAD_PENDING,
    pad: 0,
};

/// The programs, their links and their maps. Dropping it detaches everything, unless it is
/// pinned.
pub struct Datapath {
    ebpf: Ebpf,
    workloads: Mirror<WorkloadKey, Workload>,
    destinations: Mirror<DestinationKey, Destination>,
    credentials: Mirror<CredentialKey, Credential>,
    learning: Learning,
    flow_shares: FlowShares,
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
        if let Some(pins) = &pins {
            attach::finish_begun(pins)?;
        }
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
            flow_shares: FlowShares::open(&mut ebpf)?,
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
            attach::attach_pinned(&mut self.ebpf, &load::PROGRAMS, cgroup.as_fd(), id, pins)?;
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
        self.flow_shares.admit(cgroup_id)?;
        self.workloads.put(WorkloadKey { cgroup_id }, workload)?;
        // Not before the programs of this version are there.
        if let Some(pins) = self.pins.as_ref().filter(|_| !self.attached.is_empty()) {
            pins.relieve(cgroup_id)?;
        }
        self.adopt()
    }

    /// Has what `policy` wants refused to a workload that is not served yet, or left alone where
    /// it fails open; the workload's own policy, or [`POLICY_ANY`].
    pub fn pend(&mut self, cgroup_id: u64, policy: u32) -> Result<(), DatapathError> {
        let workload = Workload {
            policy,
            port_v4: 0,
            port_v6: 0,
            flags: WORKLOAD_PENDING,
            pad: 0,
        };
        self.workloads.put(WorkloadKey { cgroup_id }, workload)
    }

    /// Whether the agent that gave way to this one serves a workload, for as long as it does so.
    pub fn is_left_served(&self, cgroup_id: u64) -> bool {
        let handed_over = self.pins.as_ref().is_some_and(Pins::handed_over);
        let entry = self.workloads.get(&WorkloadKey { cgroup_id });
        handed_over && entry.is_some_and(|entry| entry.flags & WORKLOAD_PENDING == 0)
    }

    /// Whether there is an entry for a workload, in these maps or in those of another version
    /// whose programs are still there.
    pub fn has_workload(&self, cgroup_id: u64) -> bool {
        let pins = self.pins.as_ref();
        self.workloads.get(&WorkloadKey { cgroup_id }).is_some()
            || pins.is_some_and(|pins| pins.inherits(cgroup_id))
    }

    /// Whether some workload wants what any policy wants.
    pub fn has_unclassified(&self) -> bool {
        let mut workloads = self.workloads.values();
        workloads.any(|workload| workload.policy == POLICY_ANY)
    }

    /// Has a workload's DNS answers and datagrams looked at once it is [enrolled](Self::enrol) or
    /// [pending](Self::pend); `cgroup` is the directory of its cgroup.
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
        self.flow_shares.dismiss(cgroup_id)?;
        self.learning.dismiss(cgroup_id, self.pins.as_ref())
    }

    /// Withdraws the workloads that are not wanted, and detaches from the cgroups that the
    /// programs were not attached to since this was loaded. What agents of other versions left
    /// goes as well.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), DatapathError> {
        self.keep_back(&wanted)?;
        self.workloads.retain(|key| wanted(key.cgroup_id))?;
        self.flow_shares.retain(&wanted)?;
        self.learning.retain(&wanted, self.pins.as_ref())?;
        self.adopt()?;
        let Some(pins) = &mut self.pins else {
            return Ok(());
        };
        let is_one_of =
            |hooks: &[load::Hook], hook: &str| hooks.iter().any(|(name, _)| *name == hook);
        pins.retain_links(|hook, cgroup| {
            is_one_of(&load::PROGRAMS, hook) && self.attached.contains(&cgroup)
                || is_one_of(&load::OF_WORKLOAD, hook) && wanted(cgroup)
        })?;
        pins.end_predecessors();
        Ok(())
    }

    /// Wanted workloads that nobody serves stay refused when the programs of another version
    /// that refuse them go.
    fn keep_back(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), DatapathError> {
        let inherited = match &self.pins {
            Some(pins) => pins.inherited()?,
            None => return Ok(()),
        };
        for cgroup_id in inherited.into_iter().filter(|id| wanted(*id)) {
            let key = WorkloadKey { cgroup_id };
            if self.workloads.keys().all(|known| *known != key) {
                self.workloads.put(key, PENDING)?;
            }
        }
        Ok(())
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

    /// The sign of life without which the kernel stops redirecting. There is none before the
    /// first workload of an earlier agent that is gone was enrolled anew.
    pub fn heartbeat(&mut self) -> Result<(), DatapathError> {
        let now_ns = monotonic_ns()?;
        if let Some(pins) = &self.pins {
            pins.heartbeat(now_ns)?;
        }
        if self.orphaned {
            return Ok(());
        }
        self.settings.heartbeat_ns = now_ns;
        self.write_config()
    }

    /// Changes the age of a sign of life from which Postern counts as gone, and gives one.
    pub fn set_grace(&mut self, grace_ns: u64) -> Result<(), DatapathError> {
        self.settings.grace_ns = grace_ns;
        self.heartbeat()
    }

    /// Tells the kernel that nobody serves from now on, without making it wait.
    pub fn rest(&mut self) -> Result<(), DatapathError> {
        if let Some(pins) = &self.pins {
            pins.heartbeat(0)?;
        }
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
    now_ns(ClockId::CLOCK_MONOTONIC)
}

/// The clock of the end of credentials.
pub(crate) fn boot_ns() -> Result<u64, DatapathError> {
    now_ns(ClockId::CLOCK_BOOTTIME)
}

fn now_ns(clock: ClockId) -> Result<u64, DatapathError> {
    let now = clock_gettime(clock).map_err(DatapathError::Clock)?;
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
        refused_pending: sum.refused_pending + cpu.refused_pending,
        refused_udp: sum.refused_udp + cpu.refused_udp,
        flows: sum.flows + cpu.flows,
        flows_lost: sum.flows_lost + cpu.flows_lost,
        dns_answers: sum.dns_answers + cpu.dns_answers,
        dns_unasked: sum.dns_unasked + cpu.dns_unasked,
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
