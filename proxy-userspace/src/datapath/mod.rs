//! The kernel half, seen from user space: loading, attaching, and the maps.

mod error;
mod flows;
mod load;

pub use error::DatapathError;
pub use flows::FlowTable;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use proxy_common::maps::{
    Config, Credential, CredentialKey, Destination, DestinationKey, Stats, Workload, WorkloadKey,
};

/// The programs, their links and their maps. Dropping it detaches everything.
pub struct Datapath {
    ebpf: Ebpf,
    workloads: HashMap<MapData, WorkloadKey, Workload>,
    destinations: HashMap<MapData, DestinationKey, Destination>,
    credentials: HashMap<MapData, CredentialKey, Credential>,
    config: Array<MapData, Config>,
    stats: PerCpuArray<MapData, Stats>,
    settings: Config,
}

impl Datapath {
    /// Loads programs and maps; attaches nothing yet.
    ///
    /// `levels` are the depths below the root of the cgroup tree at which workloads live, at
    /// most [`proxy_common::maps::MAX_LEVELS`]; `grace_ns` is the age of a heartbeat from
    /// which Postern counts as gone.
    pub fn load(levels: &[u8], grace_ns: u64) -> Result<(Self, FlowTable), DatapathError> {
        let mut ebpf = load::object()?;
        let mut settings = Config {
            heartbeat_ns: monotonic_ns()?,
            grace_ns,
            abi: proxy_common::maps::ABI,
            pad: 0,
            levels: [0; proxy_common::maps::MAX_LEVELS],
        };
        for (place, level) in settings.levels.iter_mut().zip(levels) {
            *place = *level;
        }
        let flows = FlowTable::new(load::map(&mut ebpf, "FLOWS")?);
        let mut datapath = Self {
            workloads: load::map(&mut ebpf, "WORKLOADS")?,
            destinations: load::map(&mut ebpf, "DESTINATIONS")?,
            credentials: load::map(&mut ebpf, "CREDENTIALS")?,
            config: load::map(&mut ebpf, "CONFIG")?,
            stats: load::map(&mut ebpf, "STATS")?,
            ebpf,
            settings,
        };
        datapath.write_config()?;
        Ok((datapath, flows))
    }

    /// Attaches every program to a cgroup, or none of them.
    pub fn attach(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        let attached = load::attach(&mut self.ebpf, cgroup.as_fd());
        if attached.is_err() {
            load::detach(&mut self.ebpf);
        }
        attached
    }

    /// Makes a workload's connections subject to `workload.policy`.
    pub fn enrol(&mut self, cgroup_id: u64, workload: Workload) -> Result<(), DatapathError> {
        self.workloads
            .insert(WorkloadKey { cgroup_id }, workload, 0)
            .map_err(|source| DatapathError::map("WORKLOADS", source))
    }

    /// Replaces what is redirected; entries that stay are not interrupted.
    pub fn set_destinations(
        &mut self,
        wanted: &[(DestinationKey, Destination)],
    ) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::map("DESTINATIONS", source);
        for (key, value) in wanted {
            self.destinations.insert(key, value, 0).map_err(failed)?;
        }
        let keep: HashSet<_> = wanted.iter().map(|(key, _)| *key).collect();
        let gone: Vec<_> = self
            .destinations
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep.contains(key))
            .collect();
        for key in gone {
            self.destinations.remove(&key).map_err(failed)?;
        }
        Ok(())
    }

    /// Tells the kernel whether a Connector's credential may be used.
    pub fn set_credential(
        &mut self,
        connector: u32,
        credential: Credential,
    ) -> Result<(), DatapathError> {
        self.credentials
            .insert(CredentialKey { connector }, credential, 0)
            .map_err(|source| DatapathError::map("CREDENTIALS", source))
    }

    /// The sign of life without which the kernel stops redirecting.
    pub fn heartbeat(&mut self) -> Result<(), DatapathError> {
        self.settings.heartbeat_ns = monotonic_ns()?;
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

    fn write_config(&mut self) -> Result<(), DatapathError> {
        self.config
            .set(0, self.settings, 0)
            .map_err(|source| DatapathError::map("CONFIG", source))
    }
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
