//! How agents of all versions find each other: by the part of `CONFIG` whose layout never
//! changes.

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    path::{Path, PathBuf},
};

use proxy_common::maps::Config;

use super::{DatapathError, monotonic_ns, sys::RawMap};

/// The only key of an array.
const FIRST: [u8; 4] = 0u32.to_ne_bytes();

/// What is in the place of a claim once the agent that it was made to gives way.
pub(super) fn granted(claim: u64) -> u64 {
    !claim
}

/// A pinned `CONFIG`, of this version or another.
#[derive(Debug)]
pub(super) struct KnownConfig {
    map: RawMap,
    path: PathBuf,
}

impl KnownConfig {
    /// The one in a directory, if there is one that has all that every version has.
    pub(super) fn open(directory: &Path) -> Option<Self> {
        let path = directory.join("CONFIG");
        let map = RawMap::open(&path).ok()??;
        let config = Self { map, path };
        config.owner().is_ok().then_some(config)
    }

    /// Whether an agent gave a sign of life a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        self.age_and_grace_ns()
            .is_ok_and(|(age_ns, grace_ns)| age_ns <= grace_ns)
    }

    fn age_and_grace_ns(&self) -> Result<(u64, u64), DatapathError> {
        let value = self.read()?;
        let heartbeat_ns = self.field(&value, offset_of!(Config, heartbeat_ns))?;
        let grace_ns = self.field(&value, offset_of!(Config, grace_ns))?;
        Ok((monotonic_ns()?.saturating_sub(heartbeat_ns), grace_ns))
    }

    /// Gives a sign of life.
    pub(super) fn set_heartbeat(&self, now_ns: u64) -> Result<(), DatapathError> {
        let value = self.read()?;
        self.write(value, offset_of!(Config, heartbeat_ns), now_ns)
    }

    /// Changes the owner, and returns who it was.
    pub(super) fn swap_owner(
        &self,
        new: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, DatapathError> {
        let value = self.read()?;
        let found = self.field(&value, offset_of!(Config, owner))?;
        if let Some(owner) = new(found) {
            self.write(value, offset_of!(Config, owner), owner)?;
        }
        Ok(found)
    }

    fn owner(&self) -> Result<u64, DatapathError> {
        self.swap_owner(|_| None)
    }

    fn read(&self) -> Result<Vec<u8>, DatapathError> {
        let value = self.map.get(&FIRST);
        value.map_err(DatapathError::pins("read", &self.path))
    }

    fn field(&self, value: &[u8], offset: usize) -> Result<u64, DatapathError> {
        value
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .ok_or_else(|| self.too_short())
    }

    fn write(&self, mut value: Vec<u8>, offset: usize, field: u64) -> Result<(), DatapathError> {
        let place = value
            .get_mut(offset..)
            .and_then(|rest| rest.first_chunk_mut());
        *place.ok_or_else(|| self.too_short())? = field.to_ne_bytes();
        let put = self.map.put(&FIRST, &value);
        put.map_err(DatapathError::pins("write", &self.path))
    }

    fn too_short(&self) -> DatapathError {
        DatapathError::pins("read", &self.path)(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The number of an agent in `CONFIG` while it waits. Taken back when it gives up.
pub(super) struct Claims {
    owner: u64,
    /// By directory, whose number was there before; `None` where nobody could be told.
    before: BTreeMap<PathBuf, Option<u64>>,
}

impl Claims {
    pub(super) fn new(owner: u64) -> Self {
        Self {
            owner,
            before: BTreeMap::new(),
        }
    }

    /// Again and again: a heartbeat of the incumbent may have covered it.
    pub(super) fn announce(&mut self, directory: &Path) {
        let before = self.before.entry(directory.to_path_buf()).or_default();
        let owner = self.owner;
        let is_ours = |found| found == owner || found == granted(owner);
        let found = KnownConfig::open(directory).and_then(|config| {
            config
                .swap_owner(|found| (!is_ours(found)).then_some(owner))
                .ok()
        });
        if let Some(found) = found.filter(|found| !is_ours(*found)) {
            *before = Some(found);
        }
    }

    /// Whether somebody had to be told to give way.
    pub(super) fn include(&self, directory: &Path) -> bool {
        self.before.contains_key(directory)
    }

    /// Whether the agent with this `CONFIG` gave way to this claim, and did not just die.
    pub(super) fn is_granted(&self, config: &KnownConfig) -> bool {
        config
            .owner()
            .is_ok_and(|found| found == granted(self.owner))
    }

    /// Ends the wait successfully. Returns the number.
    pub(super) fn keep(mut self) -> u64 {
        self.before.clear();
        self.owner
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        for (directory, before) in &self.before {
            if let (Some(config), Some(before)) = (KnownConfig::open(directory), before) {
                // A map that cannot be written has nobody who waits for it.
                let _ = config.swap_owner(|found| (found == self.owner).then_some(*before));
            }
        }
    }
}
