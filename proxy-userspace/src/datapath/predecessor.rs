//! What an agent with another version of the maps' layout has in the kernel.
//!
//! Its programs are on the same hooks and run before those of this version, which were attached
//! later; what they have refused is refused, and what they have sent to a listener is left
//! alone, because a listener is no Connector's address. So nothing goes without a credential
//! while both are there, and the old ones may go once this version decides about all workloads.
//!
//! The maps cannot be carried over, except for what is the same in all versions: the beginning of
//! `CONFIG`, and the keys of `WORKLOADS`.

use std::io;

use super::{
    DatapathError,
    claim::KnownConfig,
    directory::{Locked, Unloaded},
    sys::RawMap,
};

/// More workloads than any version has room for.
const WORKLOADS: usize = 1 << 20;

/// The directory of another version, with the right to write it.
#[derive(Debug)]
pub(super) struct Predecessor {
    directory: Locked,
    config: Option<KnownConfig>,
    workloads: Option<RawMap>,
    /// Its agent gave way a moment ago, and serves what its programs send it.
    serves: bool,
}

impl Predecessor {
    /// `handed_over` is whether its agent had to be told to give way.
    pub(super) fn new(directory: Locked, handed_over: bool) -> Self {
        let config = KnownConfig::open(&directory.path);
        Self {
            // One that was about to end a predecessor may have been told instead of it.
            serves: handed_over && config.as_ref().is_some_and(KnownConfig::is_fresh),
            // Without this map nothing is redirected.
            workloads: RawMap::open(&directory.path.join("WORKLOADS")).unwrap_or_default(),
            directory,
            config,
        }
    }

    /// Tells its agent, if it gave way, that the successor lives.
    pub(super) fn take(&self, owner: u64) -> Result<(), DatapathError> {
        match &self.config {
            Some(config) if self.serves => config.swap_owner(|_| Some(owner)).map(drop),
            _ => Ok(()),
        }
    }

    pub(super) fn directory(&mut self) -> &mut Locked {
        &mut self.directory
    }

    /// The sign of life that its agent does not give any more, if it serves.
    pub(super) fn heartbeat(&self, now_ns: u64) -> Result<(), DatapathError> {
        match &self.config {
            Some(config) if self.serves => config.set_heartbeat(now_ns),
            _ => Ok(()),
        }
    }

    /// Has its programs leave a workload alone that nobody serves where they send it.
    pub(super) fn forget(&self, cgroup_id: u64) -> Result<(), DatapathError> {
        let Some(workloads) = self.workloads.as_ref().filter(|_| !self.serves) else {
            return Ok(());
        };
        match workloads.remove(&cgroup_id.to_ne_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove a workload from")(error))
            }
            _ => Ok(()),
        }
    }

    /// Cgroup ids of the workloads about which its programs decide.
    pub(super) fn workloads(&self) -> Result<Vec<u64>, DatapathError> {
        let Some(workloads) = &self.workloads else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let mut key: Option<Vec<u8>> = None;
        while all.len() < WORKLOADS {
            let next = workloads.next_key(key.as_deref());
            key = next.map_err(self.failed("list the workloads of"))?;
            match key.as_deref().and_then(|key| key.try_into().ok()) {
                Some(id) => all.push(u64::from_ne_bytes(id)),
                None => break,
            }
        }
        Ok(all)
    }

    /// Whether its programs decide about a workload. One of which that cannot be told counts as
    /// known: it must not be left alone for that.
    pub(super) fn knows(&self, cgroup_id: u64) -> bool {
        let workloads = self.workloads.as_ref();
        let found = workloads.map(|workloads| workloads.get(&cgroup_id.to_ne_bytes()));
        found.is_some_and(|found| match found {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        })
    }

    /// Removes its programs, then its maps.
    pub(super) fn remove(&self) -> Result<Unloaded, DatapathError> {
        self.directory.remove()
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> DatapathError {
        DatapathError::pins(what, &self.directory.path)
    }
}
