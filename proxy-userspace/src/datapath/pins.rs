//! The directory of the BPF file system in which maps and links outlive an agent, and the
//! right to write them.
//!
//! Whoever holds the lock on the directory is the only writer. A newcomer announces itself in
//! `CONFIG` and waits; the incumbent sees that, stops writing, says so and lets go of the lock, and
//! takes it back if the newcomer does not come to take it. The kernel takes it from an agent that
//! died.
//!
//! The layout of the maps has a version, and each version a directory. A newcomer takes the locks
//! of all of them: one node has one agent.

use std::{
    fs, iter,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use proxy_common::maps::{
    ABI, Asked, Budget, Config, Credential, CredentialKey, Destination, DestinationKey, FlowCount,
    FlowKey, HostnameKey, Learned, LearnedKey, MAX_CREDENTIALS, MAX_DESTINATIONS, MAX_FLOWS,
    MAX_HOSTNAMES, MAX_LEARNED, MAX_WORKLOADS, Origin, SocketOrigin, Stats, Workload, WorkloadKey,
};
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::time::{Instant, sleep};

use super::{
    DatapathError,
    claim::{Claims, KnownConfig, granted},
    directory::{self, Attempt, Locked},
    monotonic_ns,
    predecessor::Predecessor,
};
use crate::limits;

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

const MAPS: [Layout; 12] = [
    layout::<WorkloadKey, Workload>("WORKLOADS", MapType::Hash, MAX_WORKLOADS),
    layout::<DestinationKey, Destination>("DESTINATIONS", MapType::Hash, MAX_DESTINATIONS),
    layout::<HostnameKey, Destination>("HOSTNAMES", MapType::Hash, MAX_HOSTNAMES),
    layout::<LearnedKey, Learned>("LEARNED", MapType::Hash, MAX_LEARNED),
    layout::<WorkloadKey, Budget>("BUDGETS", MapType::Hash, MAX_WORKLOADS),
    layout::<u32, Asked>("ASKED", MapType::SkStorage, 0),
    layout::<CredentialKey, Credential>("CREDENTIALS", MapType::Hash, MAX_CREDENTIALS),
    layout::<u32, SocketOrigin>("ORIGINS", MapType::SkStorage, 0),
    layout::<FlowKey, Origin>("FLOWS", MapType::Hash, MAX_FLOWS),
    layout::<WorkloadKey, FlowCount>("FLOW_COUNTS", MapType::Hash, MAX_WORKLOADS),
    layout::<u32, Config>("CONFIG", MapType::Array, 1),
    layout::<u32, Stats>("STATS", MapType::PerCpuArray, 1),
];

/// What becomes of an agent that runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// It is told to give way, and waited for.
    TakeOver,
    /// It goes on, and the newcomer does not start.
    Refuse,
}

/// The pinned maps and links, and the right to write them for as long as this lives.
#[derive(Debug)]
pub struct Pins {
    directory: Locked,
    owner: u64,
    /// Whether another agent gave way, and still serves: it said so, and did not die meanwhile.
    handed_over: bool,
    predecessors: Vec<Predecessor>,
    /// Somebody else may take the locks.
    offer: Option<Offer>,
}

#[derive(Debug)]
struct Offer {
    /// What is in the place of the claim.
    granted: u64,
    /// Until when that has to be taken.
    deadline: Instant,
}

/// What came of giving way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveWay {
    /// That is to be asked again.
    Waiting,
    /// To the other agent, which is the writer now.
    Gone,
    /// To nobody: this one is the writer.
    Stays,
}

/// Fails if an agent runs that has its pins below `base`.
pub fn ensure_alone(base: &Path) -> Result<(), DatapathError> {
    for path in directory::all(base)? {
        if matches!(Locked::attempt(&path)?, Attempt::Held) {
            return Err(DatapathError::Held { path });
        }
    }
    Ok(())
}

/// Whether no agent runs that has its pins below `base`, and none died a moment ago.
pub fn is_deserted(base: &Path) -> Result<bool, DatapathError> {
    // The locks are tried only when the kernel has nobody: who wants one at the same time takes
    // it for somebody else's.
    let is_fresh = |path: &PathBuf| KnownConfig::open(path).is_some_and(|it| it.is_fresh());
    if directory::all(base)?.iter().any(is_fresh) {
        return Ok(false);
    }
    match ensure_alone(base) {
        Ok(()) => Ok(true),
        Err(DatapathError::Held { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Pins {
    /// Becomes the writer of what is pinned below `base`, a directory on a BPF file system
    /// that is made if it is not there. Waits for the agent that is the writer so far, of
    /// whatever version, unless it is to be left alone.
    pub async fn take(base: &Path, succession: Succession) -> Result<Self, DatapathError> {
        let directory = directory::of_version(base, ABI);
        let mut claims = Claims::new(random()?);
        let deadline = Instant::now() + limits::TAKE_OVER;
        loop {
            directory::make(&directory)?;
            let locked = lock_all(base, &directory)?;
            // Nobody gives way to one that could not go on with what is there.
            check_layouts(&directory)?;
            let held = match locked {
                Ok(locked) => return Self::new(&directory, locked, claims),
                Err(held) => held,
            };
            let gives_up = succession == Succession::Refuse || Instant::now() > deadline;
            if let Some(path) = held.first().filter(|_| gives_up) {
                return Err(DatapathError::Held { path: path.clone() });
            }
            for directory in &held {
                claims.announce(directory);
            }
            sleep(limits::CLAIM_AGAIN).await;
        }
    }

    fn new(directory: &Path, locked: Vec<Locked>, claims: Claims) -> Result<Self, DatapathError> {
        let (mut own, others): (Vec<_>, Vec<_>) = locked
            .into_iter()
            .partition(|locked| locked.path == directory);
        let predecessors = others
            .into_iter()
            .map(|locked| {
                let handed_over = claims.include(&locked.path);
                Predecessor::new(locked, handed_over)
            })
            .collect();
        let config = KnownConfig::open(directory);
        let gave_way = |config: &KnownConfig| config.is_fresh() && claims.is_granted(config);
        let pins = Self {
            handed_over: config.as_ref().is_some_and(gave_way),
            owner: claims.keep(),
            // `lock_all` has seen to it that it is there.
            directory: own.pop().ok_or_else(|| DatapathError::Held {
                path: directory.to_path_buf(),
            })?,
            predecessors,
            offer: None,
        };
        // The kernel has been waiting since the other agent stopped writing.
        let now_ns = monotonic_ns()?;
        if let Some(config) = config {
            // Who gave way waits for this before it takes the successor for one that lives.
            config.swap_owner(|_| Some(pins.owner))?;
            if pins.handed_over {
                config.set_heartbeat(now_ns)?;
            }
        }
        for predecessor in &pins.predecessors {
            predecessor.take(pins.owner)?;
        }
        pins.heartbeat(now_ns)?;
        Ok(pins)
    }

    /// Lets go of the locks for the agent that claims them, and looks whether it has come to take
    /// them. One that died while it waited never will: then this one takes them back. Nothing may be
    /// written before that is decided.
    pub(super) fn give_way(&mut self) -> Result<GaveWay, DatapathError> {
        let Some(config) = KnownConfig::open(&self.directory.path) else {
            return Ok(GaveWay::Gone);
        };
        let offer = if let Some(offer) = &self.offer {
            offer
        } else {
            let claim = config.swap_owner(|claim| Some(granted(claim)))?;
            self.locked().for_each(Locked::unlock);
            self.offer.insert(Offer {
                granted: granted(claim),
                deadline: Instant::now() + limits::GIVE_WAY,
            })
        };
        if config.swap_owner(|_| None)? != offer.granted {
            return Ok(GaveWay::Gone);
        }
        if Instant::now() < offer.deadline {
            return Ok(GaveWay::Waiting);
        }
        if !self.take_back(&config)? {
            return Ok(GaveWay::Gone);
        }
        self.offer = None;
        Ok(GaveWay::Stays)
    }

    /// Whether it is not decided yet who is the writer.
    pub(super) fn is_undecided(&self) -> bool {
        self.offer.is_some()
    }

    /// Whether all locks could be had again.
    fn take_back(&mut self, config: &KnownConfig) -> Result<bool, DatapathError> {
        let mut all = true;
        for locked in self.locked() {
            all = all && locked.lock_again()?;
        }
        if !all {
            self.locked().for_each(Locked::unlock);
            return Ok(false);
        }
        config.swap_owner(|_| Some(self.owner))?;
        tracing::warn!("another agent wanted to take over and is gone; going on");
        Ok(true)
    }

    fn locked(&mut self) -> impl Iterator<Item = &mut Locked> {
        let others = self.predecessors.iter_mut();
        iter::once(&mut self.directory).chain(others.map(Predecessor::directory))
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
            .map(|map| (map.name, self.directory.path.join(map.name)))
    }

    /// Where a link is pinned until all of its like are there.
    pub(super) fn new_link(&self, hook: &str, cgroup: u64) -> PathBuf {
        self.directory.path.join(format!("{NEW}{hook}-{cgroup}"))
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, hook: &str, cgroup: u64) -> PathBuf {
        self.directory.path.join(format!("{hook}-{cgroup}"))
    }

    /// Hooks and cgroups of links that are not in their places yet.
    pub(super) fn begun_links(&self) -> Result<Vec<(String, u64)>, DatapathError> {
        let names = directory::links(&self.directory.path)?;
        let begun = names.iter().filter_map(|name| {
            let (hook, id) = name.strip_prefix(NEW)?.rsplit_once('-')?;
            Some((hook.to_owned(), id.parse().ok()?))
        });
        Ok(begun.collect())
    }

    /// Removes the links of hooks and cgroups that are not `wanted`, and those of an attempt
    /// that was not finished.
    pub(super) fn retain_links(
        &self,
        wanted: impl Fn(&str, u64) -> bool,
    ) -> Result<(), DatapathError> {
        for name in directory::links(&self.directory.path)? {
            let wanted = name
                .rsplit_once('-')
                .and_then(|(hook, id)| Some((hook, id.parse().ok()?)))
                .is_some_and(|(hook, id)| wanted(hook, id));
            if name.starts_with(NEW) || !wanted {
                let path = self.directory.path.join(&name);
                fs::remove_file(&path).map_err(DatapathError::pins("remove", &path))?;
                tracing::info!("removed the link {}, which nobody needs", path.display());
            }
        }
        Ok(())
    }

    /// A sign of life for the programs of agents that gave way and have another version.
    pub(super) fn heartbeat(&self, now_ns: u64) -> Result<(), DatapathError> {
        let mut predecessors = self.predecessors.iter();
        predecessors.try_for_each(|predecessor| predecessor.heartbeat(now_ns))
    }

    /// Has the programs of other versions leave a workload alone, unless they still send it
    /// to somebody who serves it.
    pub(super) fn relieve(&self, cgroup_id: u64) -> Result<(), DatapathError> {
        let mut predecessors = self.predecessors.iter();
        predecessors.try_for_each(|predecessor| predecessor.forget(cgroup_id))
    }

    /// Workloads about which programs of other versions decide.
    pub(super) fn inherited(&self) -> Result<Vec<u64>, DatapathError> {
        let mut all = Vec::new();
        for predecessor in &self.predecessors {
            all.extend(predecessor.workloads()?);
        }
        Ok(all)
    }

    /// Whether programs of other versions decide about a workload.
    pub(super) fn inherits(&self, cgroup_id: u64) -> bool {
        let mut predecessors = self.predecessors.iter();
        predecessors.any(|predecessor| predecessor.knows(cgroup_id))
    }

    /// Removes what agents of other versions have pinned.
    pub(super) fn end_predecessors(&mut self) {
        self.predecessors.retain(|predecessor| {
            let removed = predecessor.remove();
            match &removed {
                Ok(removed) => tracing::info!(
                    "removed what an agent of another version had in the kernel: {removed}"
                ),
                Err(error) => tracing::error!(
                    "what an agent of another version has in the kernel stays, and may refuse \
                     connections: {error}"
                ),
            }
            removed.is_err()
        });
    }
}

/// Locks the directories of all versions, or none of them. Fails with those that somebody else
/// has locked; with none if `own` is not there.
fn lock_all(base: &Path, own: &Path) -> Result<Result<Vec<Locked>, Vec<PathBuf>>, DatapathError> {
    let (mut locked, mut held) = (Vec::new(), Vec::new());
    for path in directory::all(base)? {
        match Locked::attempt(&path)? {
            Attempt::Locked(one) => locked.push(one),
            Attempt::Held => held.push(path),
            Attempt::Gone => {}
        }
    }
    let has_own = locked.iter().any(|locked| locked.path == own);
    Ok(if held.is_empty() && has_own {
        Ok(locked)
    } else {
        Err(held)
    })
}

/// The directory of agents of this version, for who only reads.
pub(super) fn find(base: &Path) -> Result<PathBuf, DatapathError> {
    let own = directory::of_version(base, ABI);
    if own.join("CONFIG").exists() {
        return match check_layouts(&own) {
            Ok(()) => Ok(own),
            Err(DatapathError::Layout { path }) => Err(DatapathError::OtherVersion { path }),
            Err(error) => Err(error),
        };
    }
    let mut others = directory::all(base)?.into_iter();
    match others.rfind(|other| *other != own) {
        Some(path) => Err(DatapathError::OtherVersion { path }),
        None => Err(DatapathError::NothingPinned {
            path: base.to_path_buf(),
        }),
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

/// A number that no other agent has; not 0.
fn random() -> Result<u64, DatapathError> {
    let mut bytes = [0; 8];
    default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| DatapathError::Random)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}
