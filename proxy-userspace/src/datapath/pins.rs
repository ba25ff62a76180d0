//! The directory of the BPF file system in which maps and links outlive an agent, and the
//! right to write them.
//!
//! Whoever holds the lock on the directory is the only writer. A newcomer announces itself in
//! `CONFIG` and waits; the incumbent sees that, stops writing and lets go of the lock. The
//! kernel takes it from an agent that died.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use proxy_common::maps::{
    ABI, Budget, Config, Credential, CredentialKey, Destination, DestinationKey, FlowKey,
    HostnameKey, Learned, LearnedKey, MAX_CREDENTIALS, MAX_DESTINATIONS, MAX_FLOWS, MAX_HOSTNAMES,
    MAX_LEARNED, MAX_WORKLOADS, Origin, Stats, Workload, WorkloadKey,
};
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::time::{Instant, sleep};

use super::{DatapathError, monotonic_ns};
use crate::limits;

/// Prefix of the directories, one for each version of the maps' layout.
const DIRECTORY: &str = "abi";
/// Prefix of a link that is about to take the place of another.
const NEW: &str = "new-";

/// A map that is pinned, and how it has to look.
struct Layout {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
}

const fn layout<K, V>(name: &'static str, kind: MapType, entries: usize) -> Layout {
    Layout {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

const MAPS: [Layout; 10] = [
    layout::<WorkloadKey, Workload>("WORKLOADS", MapType::Hash, MAX_WORKLOADS),
    layout::<DestinationKey, Destination>("DESTINATIONS", MapType::Hash, MAX_DESTINATIONS),
    layout::<HostnameKey, Destination>("HOSTNAMES", MapType::Hash, MAX_HOSTNAMES),
    layout::<LearnedKey, Learned>("LEARNED", MapType::Hash, MAX_LEARNED),
    layout::<WorkloadKey, Budget>("BUDGETS", MapType::Hash, MAX_WORKLOADS),
    layout::<CredentialKey, Credential>("CREDENTIALS", MapType::Hash, MAX_CREDENTIALS),
    layout::<u32, Origin>("ORIGINS", MapType::SkStorage, 0),
    layout::<FlowKey, Origin>("FLOWS", MapType::LruHash, MAX_FLOWS),
    layout::<u32, Config>("CONFIG", MapType::Array, 1),
    layout::<u32, Stats>("STATS", MapType::PerCpuArray, 1),
];

/// The pinned maps and links, and the right to write them for as long as this lives.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    owner: u64,
    /// Whether another agent gave way, and still serves.
    handed_over: bool,
    _lock: Flock<File>,
}

/// The number of an agent in `CONFIG` while it waits. Taken back when it gives up.
struct Claim<'a> {
    directory: &'a Path,
    owner: u64,
    before: Option<u64>,
}

impl Pins {
    /// Becomes the writer of what is pinned below `base`, a directory on a BPF file system
    /// that is made if it is not there. Waits for the agent that is the writer so far.
    pub async fn take(base: &Path) -> Result<Self, DatapathError> {
        let directory = base.join(format!("{DIRECTORY}{ABI}"));
        let owner = random()?;
        let deadline = Instant::now() + limits::TAKE_OVER;
        let mut claim = Claim {
            directory: &directory,
            owner,
            before: None,
        };
        let mut handed_over = false;
        loop {
            make_directory(&directory)?;
            match lock(&directory)? {
                // Unless it was removed and made again meanwhile.
                Some(lock) if is_at(&lock, &directory) => {
                    claim.before = None;
                    check_layouts(&directory)?;
                    let pins = Self {
                        directory: directory.clone(),
                        owner,
                        handed_over,
                        _lock: lock,
                    };
                    if handed_over {
                        pins.first_heartbeat()?;
                    }
                    return Ok(pins);
                }
                Some(_) => continue,
                None => {}
            }
            if Instant::now() > deadline {
                return Err(DatapathError::Held {
                    path: directory.clone(),
                });
            }
            // Nobody gives way to one that could not go on with what is there.
            check_layouts(&directory)?;
            handed_over = true;
            claim.announce();
            sleep(limits::CLAIM_AGAIN).await;
        }
    }

    /// The number of this writer.
    pub(super) fn owner(&self) -> u64 {
        self.owner
    }

    /// Whether the workloads in the maps are being served, by an agent that gave way.
    pub(super) fn handed_over(&self) -> bool {
        self.handed_over
    }

    /// Where each map is pinned.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MAPS.iter()
            .map(|map| (map.name, self.directory.join(map.name)))
    }

    /// Where a link is pinned until all of its like are there.
    pub(super) fn new_link(&self, hook: &str, cgroup: u64) -> PathBuf {
        self.directory.join(format!("{NEW}{hook}-{cgroup}"))
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, hook: &str, cgroup: u64) -> PathBuf {
        self.directory.join(format!("{hook}-{cgroup}"))
    }

    /// Removes the links of hooks and cgroups that are not `wanted`, and those of an attempt
    /// that was not finished.
    pub(super) fn retain_links(
        &self,
        wanted: impl Fn(&str, u64) -> bool,
    ) -> Result<(), DatapathError> {
        for name in links(&self.directory)? {
            let wanted = name
                .rsplit_once('-')
                .and_then(|(hook, id)| Some((hook, id.parse().ok()?)))
                .is_some_and(|(hook, id)| wanted(hook, id));
            if name.starts_with(NEW) || !wanted {
                let path = self.directory.join(&name);
                fs::remove_file(&path).map_err(DatapathError::pins("remove", &path))?;
                tracing::info!("removed the link {}, whose cgroup is gone", path.display());
            }
        }
        Ok(())
    }

    /// The kernel has been waiting since the other agent stopped writing.
    fn first_heartbeat(&self) -> Result<(), DatapathError> {
        if let Some(mut map) = config(&self.directory) {
            let failed = |source| DatapathError::map("CONFIG", source);
            let mut config = map.get(&0, 0).map_err(failed)?;
            config.owner = self.owner;
            config.heartbeat_ns = monotonic_ns()?;
            map.set(0, config, 0).map_err(failed)?;
        }
        Ok(())
    }
}

impl Claim<'_> {
    /// Again and again: a heartbeat of the incumbent may have covered it.
    fn announce(&mut self) {
        if let Some(found) = swap_owner(self.directory, |found| {
            (found != self.owner).then_some(self.owner)
        }) && found != self.owner
        {
            self.before = Some(found);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            swap_owner(self.directory, |found| {
                (found == self.owner).then_some(before)
            });
        }
    }
}

/// What was removed from one directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Unloaded {
    /// The directory.
    pub directory: PathBuf,
    /// Links, each of one program to one cgroup.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

/// Removes everything that agents of any version have pinned below `base`, or nothing at all
/// while one of them runs.
pub fn unload(base: &Path) -> Result<Vec<Unloaded>, DatapathError> {
    let mut held = Vec::new();
    for directory in directories(base)? {
        match lock(&directory)? {
            Some(lock) => held.push((directory, lock)),
            None => return Err(DatapathError::Running { path: directory }),
        }
    }
    let mut removed = Vec::new();
    for (directory, lock) in held {
        // The links first: programs without their maps would refuse what they cannot look up.
        let links = links(&directory)?;
        let unlink = |name: &String| {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(DatapathError::pins("remove", &path))
        };
        links.iter().try_for_each(unlink)?;
        let maps = names(&directory)?;
        maps.iter().try_for_each(unlink)?;
        fs::remove_dir(&directory).map_err(DatapathError::pins("remove", &directory))?;
        drop(lock);
        removed.push(Unloaded {
            directory,
            links: links.len(),
            maps: maps.len(),
        });
    }
    match fs::remove_dir(base) {
        // What is not ours stays.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(DatapathError::pins("remove", base)(error))
        }
        _ => Ok(removed),
    }
}

/// The directory of agents of this version, for who only reads.
pub(super) fn find(base: &Path) -> Result<PathBuf, DatapathError> {
    let directory = base.join(format!("{DIRECTORY}{ABI}"));
    if directory.join("CONFIG").exists() {
        return match check_layouts(&directory) {
            Ok(()) => Ok(directory),
            Err(DatapathError::Layout { path }) => Err(DatapathError::OtherVersion { path }),
            Err(error) => Err(error),
        };
    }
    let mut others = directories(base)?.into_iter();
    match others.rfind(|other| *other != directory) {
        Some(path) => Err(DatapathError::OtherVersion { path }),
        None => Err(DatapathError::NothingPinned {
            path: base.to_path_buf(),
        }),
    }
}

/// Ids of the cgroups that a program is attached to.
pub(super) fn attached(directory: &Path, hook: &str) -> Result<BTreeSet<u64>, DatapathError> {
    let links = links(directory)?;
    let ids = links.iter().filter_map(|name| {
        let (name, id) = name.rsplit_once('-')?;
        (name == hook).then(|| id.parse().ok()).flatten()
    });
    Ok(ids.collect())
}

/// Makes the directory on a BPF file system, or refuses to make it elsewhere.
fn make_directory(directory: &Path) -> Result<(), DatapathError> {
    let existing = directory.ancestors().find(|path| path.exists());
    let is_bpffs = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_bpffs {
        return Err(DatapathError::NoBpffs {
            path: directory.to_path_buf(),
        });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(DatapathError::pins("make", directory))
}

/// The lock on a directory; `None` while somebody else holds it.
fn lock(directory: &Path) -> Result<Option<Flock<File>>, DatapathError> {
    let file = File::open(directory).map_err(DatapathError::pins("open", directory))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(DatapathError::pins("lock", directory)(errno.into())),
    }
}

/// Whether an open directory is still the one that the path leads to.
fn is_at(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() == there.ino() && open.dev() == there.dev(),
        _ => false,
    }
}

/// Maps that an earlier agent left must be as this one would make them.
fn check_layouts(directory: &Path) -> Result<(), DatapathError> {
    for layout in MAPS {
        let path = directory.join(layout.name);
        if path.exists() && !layout.fits(&path)? {
            return Err(DatapathError::Layout { path });
        }
    }
    Ok(())
}

impl Layout {
    fn fits(&self, path: &Path) -> Result<bool, DatapathError> {
        let info =
            MapInfo::from_pin(path).map_err(|source| DatapathError::map(self.name, source))?;
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(info.map_type().is_ok_and(|kind| kind == self.kind)
            && size(info.key_size()) == self.key
            && size(info.value_size()) == self.value
            && size(info.max_entries()) == self.entries)
    }
}

/// The pinned `CONFIG`, if there is one of this layout.
fn config(directory: &Path) -> Option<Array<MapData, Config>> {
    let map = MapData::from_pin(directory.join("CONFIG")).ok()?;
    Array::try_from(Map::Array(map)).ok()
}

/// Changes the owner in a pinned `CONFIG`, and returns who it was. Without such a map nobody
/// can be told anything.
fn swap_owner(directory: &Path, new: impl FnOnce(u64) -> Option<u64>) -> Option<u64> {
    let mut map = config(directory)?;
    let mut config = map.get(&0, 0).ok()?;
    let found = config.owner;
    if let Some(owner) = new(found) {
        config.owner = owner;
        map.set(0, config, 0).ok()?;
    }
    Some(found)
}

/// Directories of all versions.
fn directories(base: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let mut found: Vec<_> = names(base)?
        .into_iter()
        .filter(|name| name.starts_with(DIRECTORY))
        .map(|name| base.join(name))
        .collect();
    found.sort();
    Ok(found)
}

/// Names of the links in a directory: no map has a dash in its name.
fn links(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let mut names = names(directory)?;
    names.retain(|name| name.contains('-'));
    Ok(names)
}

/// What is in a directory; nothing when there is none.
fn names(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let failed = DatapathError::pins("list", directory);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(failed)
}

/// A number that no other agent has; not 0.
fn random() -> Result<u64, DatapathError> {
    let mut bytes = [0; 8];
    default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| DatapathError::Random)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}
