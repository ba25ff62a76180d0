//! The pods in the cgroup tree, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use proxy_common::maps::MAX_LEVELS;

use super::name::{PodUid, is_kubepods, is_qos};

/// How deep below the mount the kubelet's directory may be, inside of other clusters.
const KUBEPODS_DEPTH: usize = 6;
/// How many levels may be hidden above what a mount shows, those of pods included.
const HIDDEN_LEVELS: u8 = 8;

/// A pod's own cgroup, above those of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Whose it is.
    pub uid: PodUid,
    /// Its id: the inode number of its directory.
    pub cgroup_id: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// The directories that hold pods: each kubelet's own, and its classes.
pub(super) fn holders(mount: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for kubepods in kubepods(mount, KUBEPODS_DEPTH) {
        let classes = directories(&kubepods)
            .into_iter()
            .filter(|entry| is_qos(&entry.name))
            .map(|entry| entry.path);
        found.extend(classes);
        found.push(kubepods);
    }
    found
}

/// The kubelets' own directories, without those of clusters inside of pods: what is attached
/// to one of these reaches every pod below.
pub fn outermost(mount: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in kubepods(mount, KUBEPODS_DEPTH) {
        if !found.iter().any(|outer| path.starts_with(outer)) {
            found.push(path);
        }
    }
    found
}

/// Depths below the root of the whole tree at which the pods of some kubelets are: right
/// below their directory, or below that of a class.
///
/// The mount need not show the whole tree. Where the root of it cannot be seen, all depths
/// are named that it may be below.
pub fn levels(outermost: &[PathBuf]) -> Vec<u8> {
    let mut levels = BTreeSet::new();
    for path in outermost {
        let (depth, sees_root) = depth(path);
        let deepest = if sees_root {
            depth + 2
        } else {
            depth + HIDDEN_LEVELS
        };
        levels.extend(depth + 1..=deepest);
    }
    levels.into_iter().take(MAX_LEVELS).collect()
}

/// How deep a cgroup is below the highest one that can be seen, and whether that is the root,
/// the only one that cannot be empty and so has no `cgroup.events`.
fn depth(path: &Path) -> (u8, bool) {
    let mut depth = 0;
    let mut next = Some(path);
    while let Some(cgroup) = next {
        if !cgroup.join("cgroup.events").exists() {
            return (depth, cgroup.join("cgroup.procs").exists());
        }
        depth += 1;
        next = cgroup.parent();
    }
    (depth, false)
}

/// All pods in some holders, by the id of their cgroup.
pub(super) fn pods(holders: &[PathBuf]) -> BTreeMap<u64, PodCgroup> {
    holders
        .iter()
        .flat_map(|holder| directories(holder))
        .filter_map(|entry| {
            let pod = PodCgroup {
                uid: PodUid::from_directory(&entry.name)?,
                cgroup_id: entry.inode,
                path: entry.path,
            };
            Some((pod.cgroup_id, pod))
        })
        .collect()
}

/// Outermost first: a node that runs a cluster in a pod has a kubelet's directory in another's.
fn kubepods(directory: &Path, depth: usize) -> Vec<PathBuf> {
    if depth == 0 {
        return Vec::new();
    }
    directories(directory)
        .into_iter()
        .flat_map(|entry| {
            let mut found = kubepods(&entry.path, depth - 1);
            if is_kubepods(&entry.name) {
                found.insert(0, entry.path);
            }
            found
        })
        .collect()
}

struct Entry {
    name: String,
    inode: u64,
    path: PathBuf,
}

/// The directories in a directory; one that has just gone has none.
fn directories(path: &Path) -> Vec<Entry> {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    entries
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| Entry {
            name: entry.file_name().to_string_lossy().into_owned(),
            inode: entry.ino(),
            path: entry.path(),
        })
        .collect()
}
