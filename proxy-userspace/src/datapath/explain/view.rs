//! The pinned maps, opened to be read.

use std::{collections::BTreeSet, path::Path, path::PathBuf};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use proxy_common::maps::{
    Config, Credential, CredentialKey, Destination, DestinationKey, HostnameKey, Learned,
    LearnedKey, Workload, WorkloadKey,
};

use super::super::{DatapathError, directory, pins};

/// The maps that a decision depends on.
pub(super) struct View {
    directory: PathBuf,
    config: Array<MapData, Config>,
    workloads: Table<WorkloadKey, Workload>,
    destinations: Table<DestinationKey, Destination>,
    hostnames: Table<HostnameKey, Destination>,
    learned: Table<LearnedKey, Learned>,
    credentials: Table<CredentialKey, Credential>,
}

/// A hash map with its name.
pub(super) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl View {
    /// Opens what agents of this version have pinned below `base`.
    pub(super) fn open(base: &Path) -> Result<Self, DatapathError> {
        let directory = pins::find(base)?;
        let config = open(&directory, "CONFIG")?;
        let config = Array::try_from(Map::Array(config));
        Ok(Self {
            config: config.map_err(|source| DatapathError::map("CONFIG", source))?,
            workloads: Table::open(&directory, "WORKLOADS")?,
            destinations: Table::open(&directory, "DESTINATIONS")?,
            hostnames: Table::open(&directory, "HOSTNAMES")?,
            learned: Table::open(&directory, "LEARNED")?,
            credentials: Table::open(&directory, "CREDENTIALS")?,
            directory,
        })
    }

    /// Ids of the cgroups to which a program is attached.
    pub(super) fn attached(&self, hook: &str) -> Result<BTreeSet<u64>, DatapathError> {
        directory::attached(&self.directory, hook)
    }

    pub(super) fn config(&self) -> Result<Config, DatapathError> {
        let config = self.config.get(&0, 0);
        config.map_err(|source| DatapathError::map("CONFIG", source))
    }

    pub(super) fn workload(&self, cgroup_id: u64) -> Result<Option<Workload>, DatapathError> {
        self.workloads.get(&WorkloadKey { cgroup_id })
    }

    pub(super) fn destination(
        &self,
        key: &DestinationKey,
    ) -> Result<Option<Destination>, DatapathError> {
        self.destinations.get(key)
    }

    pub(super) fn hostname(&self, key: &HostnameKey) -> Result<Option<Destination>, DatapathError> {
        self.hostnames.get(key)
    }

    pub(super) fn learned(&self, key: &LearnedKey) -> Result<Option<Learned>, DatapathError> {
        self.learned.get(key)
    }

    pub(super) fn credential(&self, connector: u32) -> Result<Option<Credential>, DatapathError> {
        self.credentials.get(&CredentialKey { connector })
    }

    /// All that a workload learned.
    pub(super) fn learned_by(
        &self,
        workload: u64,
    ) -> Result<Vec<(LearnedKey, Learned)>, DatapathError> {
        self.learned.all(|key| key.workload == workload)
    }

    /// All that a policy wants of addresses.
    pub(super) fn destinations_of(
        &self,
        policy: u32,
    ) -> Result<Vec<(DestinationKey, Destination)>, DatapathError> {
        self.destinations.all(|key| key.policy == policy)
    }

    /// All that a policy wants of hosts that are names.
    pub(super) fn hostnames_of(
        &self,
        policy: u32,
    ) -> Result<Vec<(HostnameKey, Destination)>, DatapathError> {
        self.hostnames.all(|key| key.policy == policy)
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn open(directory: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let map = HashMap::try_from(Map::HashMap(open(directory, name)?));
        let map = map.map_err(|source| DatapathError::map(name, source))?;
        Ok(Self { name, map })
    }

    fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(DatapathError::map(self.name, source)),
        }
    }

    fn all(&self, wanted: impl Fn(&K) -> bool) -> Result<Vec<(K, V)>, DatapathError> {
        let entries = self.map.iter().filter(|entry| match entry {
            Ok((key, _)) => wanted(key),
            Err(_) => true,
        });
        let entries: Result<_, _> = entries.collect();
        entries.map_err(|source| DatapathError::map(self.name, source))
    }
}

fn open(directory: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    let path = directory.join(name);
    MapData::from_pin(path).map_err(|source| DatapathError::map(name, source))
}
