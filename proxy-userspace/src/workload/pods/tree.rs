//! The pods in the cgroup tree, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use proxy_common::maps::MAX_LEVELS;

use super::{
    PodsError,
    name::{PodUid, is_kubepods, is_qos},
};

/// How deep below the mount the kubelet's directory may be.
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

/// The directories that hold pods: each kubelet's own, and its classes. Those of clusters
/// inside of pods do not count: their pods are the outer pod's business, and whoever may make
/// cgroups in a container could pose as any pod of the node.
pub(super) fn holders(mount: &Path) -> Result<Vec<PathBuf>, PodsError> {
    let mut found = Vec::new();
    for kubepods in outermost(mount)? {
        let classes = directories(&kubepods)?
            .into_iter()
            .filter(|entry| is_qos(&entry.name))
            .map(|entry| entry.path);
        found.extend(classes);
        found.push(kubepods);
    }
    Ok(found)
}

/// The kubelets' own directories, without those of clusters inside of pods: what is attached
/// to one of these reaches every pod below.
pub fn outermost(mount: &Path) -> Result<Vec<PathBuf>, PodsError> {
    let mut found = Vec::new();
    let mut next = vec![(mount.to_path_buf(), KUBEPODS_DEPTH)];
    while let Some((directory, depth)) = next.pop() {
        for entry in directories(&directory)? {
            if is_kubepods(&entry.name) {
                found.push(entry.path);
            } else if depth > 1 {
                next.push((entry.path, depth - 1));
            }
        }
    }
    found.sort();
    Ok(found)
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
pub(super) fn pods(holders: &[PathBuf]) -> Result<BTreeMap<u64, PodCgroup>, PodsError> {
    let mut pods = BTreeMap::new();
    for holder in holders {
        for entry in directories(holder)? {
            if let Some(uid) = PodUid::from_directory(&entry.name) {
                let pod = PodCgroup {
                    uid,
                    cgroup_id: entry.inode,
                    path: entry.path,
                };
                pods.insert(pod.cgroup_id, pod);
            }
        }
    }
    Ok(pods)
}

struct Entry {
    name: String,
    inode: u64,
    path: PathBuf,
}

/// The directories in a directory; one that has just gone has none. Any other error must not
/// look as if there were none.
fn directories(path: &Path) -> Result<Vec<Entry>, PodsError> {
    match read_directories(path) {
        Ok(found) => Ok(found),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(source) => Err(PodsError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn read_directories(path: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                inode: entry.ino(),
                path: entry.path(),
            });
        }
    }
    Ok(found)
}

/// Whether a cgroup was removed before or while it was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}
