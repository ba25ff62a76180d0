//! Cgroups of the unified hierarchy: made, entered, and removed with everything in them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Inode of the initial cgroup namespace (`PROC_CGROUP_INIT_INO` of the kernel).
const INITIAL_CGROUP_NS: u64 = 0xEFFF_FFFB;
/// How deep below the visible root a cgroup namespace may hide more levels.
const HIDDEN_LEVELS: u8 = 7;

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 is mounted.
    #[error("no cgroup v2 hierarchy is known to the kernel, which Postern needs")]
    NotMounted,
    /// A path that should be that of a cgroup.
    #[error(
        "{} is not a directory of cgroup v2, whose mount is often /sys/fs/cgroup or \
         /sys/fs/cgroup/unified", path.display()
    )]
    NoCgroup {
        /// What was named.
        path: PathBuf,
    },
    /// A file below the mount could not be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl CgroupError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }
}

/// A cgroup that this process made; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    below_mount: PathBuf,
    directory: File,
    id: u64,
    levels: Vec<u8>,
    // Goes after the cgroup was removed.
    _mount: Option<OwnMount>,
}

impl Cgroup {
    /// Makes a cgroup below the caller's own, so that limits set there keep holding.
    ///
    /// Where no hierarchy is visible, one is mounted at `spare` for as long as this lives.
    pub fn create(name: &str, spare: &Path) -> Result<Self, CgroupError> {
        let (own_mount, (mount, root)) = match mount_point() {
            Err(CgroupError::NotMounted) => {
                let own = OwnMount::make(spare)?;
                (Some(own), (spare.to_path_buf(), PathBuf::from("/")))
            }
            found => (None, found?),
        };
        let own = own_path()?;
        // A container may see only a part of the tree, mounted as if it were the whole.
        let below = own.strip_prefix(&root).or_else(|_| own.strip_prefix("/"));
        let below_mount = below.unwrap_or(&own).join(name);
        let path = mount.join(&below_mount);
        fs::create_dir(&path).map_err(CgroupError::io("make the cgroup", &path))?;
        let directory = File::open(&path).map_err(CgroupError::io("open the cgroup", &path))?;
        let id = directory
            .metadata()
            .map_err(CgroupError::io("read the id of", &path))?
            .ino();
        let depth = below_mount.components().count();
        Ok(Self {
            levels: levels(
                u8::try_from(depth).unwrap_or(u8::MAX),
                hides_levels() || root != Path::new("/"),
            ),
            path,
            below_mount,
            directory,
            id,
            _mount: own_mount,
        })
    }

    /// Its path below the mount, by which others with another mount find it.
    pub fn below_mount(&self) -> &Path {
        &self.below_mount
    }

    /// Removes a cgroup of somebody who is gone, found by [`below_mount`](Self::below_mount).
    pub fn remove_below_mount(below: &Path) -> Result<(), CgroupError> {
        match mount_point() {
            Ok((mount, _)) => Self::remove(&mount.join(below)),
            // Whoever sees the hierarchy next will remove it.
            Err(CgroupError::NotMounted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, open; programs are attached to this.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// What `bpf_get_current_cgroup_id` returns in it: the inode number of its directory.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Depths below the root of the whole tree at which it may be.
    pub fn levels(&self) -> &[u8] {
        &self.levels
    }

    /// Kills every process that is left in it.
    pub fn kill(&self) {
        kill_all(&self.path);
    }

    /// Kills every process in a cgroup and below, and removes it. A cgroup that does not
    /// exist is removed already.
    fn remove(path: &Path) -> Result<(), CgroupError> {
        // A process may fork while it is being killed, and a killed one takes a moment to go.
        let mut result = Ok(());
        for _ in 0..200 {
            kill_all(path);
            result = remove_tree(path);
            match &result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        result.map_err(CgroupError::io("remove the cgroup", path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.path) {
            tracing::warn!("{error}");
        }
    }
}

/// Where the unified hierarchy is mounted.
pub fn hierarchy() -> Result<PathBuf, CgroupError> {
    mount_point().map(|(mount, _)| mount)
}

/// Where the unified hierarchy is mounted, and which cgroup shows there; hybrid hosts have it
/// at another place.
fn mount_point() -> Result<(PathBuf, PathBuf), CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
    find_mount(&mounts).ok_or(CgroupError::NotMounted)
}

/// A mount of our own, for programs such as `ip netns exec` that show a /sys without cgroups.
#[derive(Debug)]
struct OwnMount(PathBuf);

impl OwnMount {
    fn make(point: &Path) -> Result<Self, CgroupError> {
        fs::create_dir_all(point).map_err(CgroupError::io("make", point))?;
        mount(
            Some("none"),
            point,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|errno| CgroupError::io("mount cgroup2 at", point)(errno.into()))?;
        Ok(Self(point.to_path_buf()))
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::warn!("cannot unmount {}: {errno}", self.0.display());
        }
    }
}

/// Fields 5 and 4 of a mountinfo line are the mount point and its root; the type follows the
/// separator (proc(5)).
fn find_mount(mounts: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let root = fields.next()?.replace("\\040", " ");
        let point = fields.next()?.replace("\\040", " ");
        Some((PathBuf::from(point), PathBuf::from(root)))
    })
}

/// Path of the caller's cgroup, as seen from its cgroup namespace.
fn own_path() -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/cgroup");
    let cgroups = fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
    let own = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(CgroupError::NotMounted)?;
    // Outside of the namespace's root nothing can be made.
    if own.starts_with("/..") {
        return Ok(PathBuf::from("/"));
    }
    Ok(PathBuf::from(own))
}

/// Whether a cgroup namespace hides ancestors, so that the real depth is unknown.
fn hides_levels() -> bool {
    fs::metadata("/proc/self/ns/cgroup").map_or(true, |ns| ns.ino() != INITIAL_CGROUP_NS)
}

fn levels(depth: u8, hidden: bool) -> Vec<u8> {
    let deepest = if hidden {
        depth.saturating_add(HIDDEN_LEVELS)
    } else {
        depth
    };
    (depth..=deepest).collect()
}

fn kill_all(path: &Path) {
    // Since 5.14; older kernels need it process by process.
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for directory in tree(path) {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // Gone already is as good as killed.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    tree(path).iter().rev().try_for_each(fs::remove_dir)
}

/// A directory and all below it, parents first.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let below: Vec<_> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy_on_a_hybrid_host() {
        let mounts = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
26 25 0:23 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n\
27 25 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_mount(mounts),
            Some((PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/")))
        );
        assert_eq!(find_mount("25 20 0:22 / /sys rw - sysfs sysfs rw"), None);
    }

    #[test]
    fn a_cgroup_namespace_widens_the_levels() {
        assert_eq!(levels(2, false), [2]);
        assert_eq!(levels(2, true), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(levels(2, true).len() <= proxy_common::maps::MAX_LEVELS);
    }
}
