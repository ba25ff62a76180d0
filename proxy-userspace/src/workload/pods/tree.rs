//! The pods in the cgroup tree, at one moment.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use super::name::{PodUid, is_kubepods, is_qos};

/// How deep below the mount the kubelet's directory may be, inside of other clusters.
const KUBEPODS_DEPTH: usize = 6;

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
