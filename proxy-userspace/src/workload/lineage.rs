//! The cgroups above a cgroup, as the kernel counts them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::CgroupError;

/// Id of the root of the hierarchy: the first inode of its file system.
const ROOT: u64 = 1;

/// A cgroup and all those above it that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Its directory.
    pub path: PathBuf,
    /// Ids from the highest one down to the cgroup itself.
    ids: Vec<u64>,
}

impl Lineage {
    /// Of the cgroup that has this directory.
    pub fn of(path: &Path) -> Result<Self, CgroupError> {
        let path = fs::canonicalize(path).map_err(CgroupError::io("find the cgroup", path))?;
        if !is_cgroup(&path)? {
            return Err(CgroupError::NoCgroup { path });
        }
        let mut ids = Vec::new();
        let mut next = Some(path.as_path());
        while let Some(directory) = next {
            if !is_cgroup(directory)? {
                break;
            }
            let metadata = fs::metadata(directory);
            let id = metadata.map_err(CgroupError::io("read the id of", directory))?;
            ids.push(id.ino());
            next = directory.parent();
        }
        ids.reverse();
        Ok(Self { path, ids })
    }

    /// Id of the cgroup itself.
    pub fn id(&self) -> u64 {
        self.ids.last().copied().unwrap_or_default()
    }

    /// Ids from the highest one that can be seen down to the cgroup itself.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Whether the first id is that of the whole tree's root. Otherwise the depths are unknown.
    pub fn sees_root(&self) -> bool {
        self.ids.first() == Some(&ROOT)
    }
}

/// Whether a directory is a cgroup of the unified hierarchy. Those of other hierarchies have
/// ids as well, which mean nothing to a program.
fn is_cgroup(path: &Path) -> Result<bool, CgroupError> {
    let found = statfs(path)
        .map_err(|errno| CgroupError::io("find the file system of", path)(errno.into()))?;
    Ok(found.filesystem_type() == CGROUP2_SUPER_MAGIC && path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup_is_named() {
        for path in ["/proc", "/", "/etc/hostname"] {
            let error = Lineage::of(Path::new(path)).expect_err("it is none");
            let text = error.to_string();
            assert!(text.contains(path) && text.contains("cgroup v2"), "{text}");
        }
        let error = Lineage::of(Path::new("/nowhere")).expect_err("it is none");
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
