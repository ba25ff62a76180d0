//! What workloads have learned that are gone, removed by a thread of its own: to find it, all of
//! `LEARNED` has to be read, and signs of life must not wait for that.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData},
};
use proxy_common::maps::{Learned, LearnedKey, MAX_LEARNED};

use super::{DatapathError, learning::gone};

const MAP: &str = "LEARNED";

/// The workloads whose entries are to go.
pub(super) struct Leftovers {
    map: Arc<OwnedFd>,
    work: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    of: HashSet<u64>,
    /// Whether a thread is there that will see what is added.
    has_thread: bool,
}

impl Leftovers {
    /// With a descriptor of its own. For before the map is taken out of the object.
    pub(super) fn open(ebpf: &Ebpf) -> Result<Self, DatapathError> {
        let Some(Map::HashMap(map) | Map::LruHashMap(map)) = ebpf.map(MAP) else {
            return Err(DatapathError::Object { name: MAP });
        };
        let copy = map.fd().as_fd().try_clone_to_owned();
        let map = copy.map_err(DatapathError::pins(
            "copy the descriptor of",
            Path::new(MAP),
        ))?;
        Ok(Self {
            map: Arc::new(map),
            work: Arc::default(),
        })
    }

    /// Has the entries of a workload removed, soon. Those of all that are added meanwhile go in one
    /// pass.
    pub(super) fn remove(&self, workload: u64) {
        let mut work = lock(&self.work);
        work.of.insert(workload);
        if work.has_thread {
            return;
        }
        let (map, shared) = (Arc::clone(&self.map), Arc::clone(&self.work));
        let name = "leftovers".to_owned();
        let started = thread::Builder::new()
            .name(name)
            .spawn(move || remove_all(&map, &shared));
        match started {
            Ok(_) => work.has_thread = true,
            Err(error) => {
                // They are in nobody's way, and go when old entries do.
                work.of.clear();
                tracing::warn!("what workloads that are gone have learned stays a while: {error}");
            }
        }
    }

    /// The workload is back, and keeps what is left.
    pub(super) fn keep(&self, workload: u64) {
        lock(&self.work).of.remove(&workload);
    }
}

impl Drop for Leftovers {
    /// Whoever comes next writes the map.
    fn drop(&mut self) {
        lock(&self.work).of.clear();
    }
}

fn remove_all(map: &OwnedFd, work: &Mutex<Work>) {
    loop {
        let batch = {
            let mut work = lock(work);
            work.has_thread = !work.of.is_empty();
            work.of.clone()
        };
        if batch.is_empty() {
            return;
        }
        if let Err(error) = remove_batch(map, work, &batch) {
            tracing::warn!("what workloads that are gone have learned stays a while: {error}");
        }
        lock(work).of.retain(|workload| !batch.contains(workload));
    }
}

fn remove_batch(
    map: &OwnedFd,
    work: &Mutex<Work>,
    batch: &HashSet<u64>,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::map(MAP, source);
    let copy = map.try_clone().map_err(DatapathError::pins(
        "copy the descriptor of",
        Path::new(MAP),
    ))?;
    let map = MapData::from_fd(copy).and_then(Map::from_map_data);
    let mut learned: BpfHashMap<_, LearnedKey, Learned> =
        map.and_then(TryInto::try_into).map_err(failed)?;
    // One that is removed in between makes the kernel begin anew; once is enough.
    let keys = learned.keys().take(2 * MAX_LEARNED);
    let found: Vec<_> = keys
        .filter(|key| key.as_ref().is_ok_and(|key| batch.contains(&key.workload)))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    for key in found {
        let work = lock(work);
        // It may have come back.
        if work.of.contains(&key.workload) {
            gone(learned.remove(&key)).map_err(failed)?;
        }
    }
    Ok(())
}

fn lock(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    // Nothing panics while it holds the lock.
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
