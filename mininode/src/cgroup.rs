//! The cgroups of a node, below one of its own: two nodes on one machine share nothing.

use std::env;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Processes need a moment to end once they are killed.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// How the names of nodes' cgroups and folders start; the owner's process id follows.
const PREFIX: &str = "postern-node-";

/// How the kubelet names the cgroups of pods; its setting `cgroupDriver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupLayout {
    /// `kubepods/besteffort/pod<uid>`.
    #[default]
    Cgroupfs,
    /// `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid>.slice`. The
    /// directories are as systemd would make them; there is no systemd behind them.
    Systemd,
}

/// A pod's class of quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As it is in names; guaranteed pods are directly below `kubepods`.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl CgroupLayout {
    /// The directory above all pods.
    pub(crate) fn kubepods(self) -> &'static str {
        match self {
            Self::Cgroupfs => "kubepods",
            Self::Systemd => "kubepods.slice",
        }
    }

    /// The directory of a class of pods, below the node's.
    fn class(self, qos: Qos) -> String {
        let above = self.kubepods();
        match (self, qos.name()) {
            (_, None) => above.to_owned(),
            (Self::Cgroupfs, Some(class)) => format!("{above}/{class}"),
            (Self::Systemd, Some(class)) => format!("{above}/kubepods-{class}.slice"),
        }
    }

    /// A pod's directory, below the node's.
    pub(crate) fn pod(self, qos: Qos, uid: &str) -> String {
        let above = self.class(qos);
        match self {
            Self::Cgroupfs => format!("{above}/pod{uid}"),
            Self::Systemd => {
                let class = qos
                    .name()
                    .map(|name| format!("-{name}"))
                    .unwrap_or_default();
                // systemd reads `-` as a level.
                format!("{above}/kubepods{class}-pod{}.slice", uid.replace('-', "_"))
            }
        }
    }
}

/// The node's own cgroup. Dropping it ends whatever is inside and removes it.
#[derive(Debug)]
pub(crate) struct NodeCgroup {
    path: PathBuf,
    /// Its path in the hierarchy: `/postern-node-…`.
    name: String,
}

impl NodeCgroup {
    /// Makes it, and removes those of processes that were killed.
    pub(crate) fn create(layout: CgroupLayout) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mount = mount_point()?;
        sweep(&mount);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/{PREFIX}{}-{number}", process::id());
        let cgroup = Self {
            path: mount.join(&name[1..]),
            name,
        };
        create(&cgroup.path.join(SERVICE))?;
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            create(&cgroup.path.join(layout.class(qos)))?;
        }
        Ok(cgroup)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Where containerd and its shims are, as on a machine with systemd.
pub(crate) const SERVICE: &str = "system.slice/containerd.service";

impl Drop for NodeCgroup {
    fn drop(&mut self) {
        // Best effort: the next node of anybody sweeps it up.
        remove(&self.path).ok();
    }
}

/// Makes a cgroup and those above it.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))
}

/// Kills what is in a cgroup, and removes it with everything below.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + REMOVE_LIMIT;
    loop {
        // Kernels before 5.14 cannot; then the processes have to end by themselves.
        fs::write(path.join("cgroup.kill"), "1").ok();
        match remove_empty(path) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error)
                    .with_context(|| format!("cannot remove the cgroup {}", path.display()));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn remove_empty(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        // The container runtime was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what nodes left behind whose process was killed: their own processes ended with it,
/// but cgroups and files stay.
fn sweep(mount: &Path) {
    for path in abandoned(mount) {
        // Somebody else may sweep at the same time. What is not empty is not killed: should
        // the owner live where we cannot see it, nothing happens.
        remove_empty(&path).ok();
    }
    for path in abandoned(&env::temp_dir()) {
        fs::remove_dir_all(path).ok();
    }
}

/// The nodes' directories in a folder whose owner has ended.
fn abandoned(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| {
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists())
    })
}

/// Where this machine has the unified hierarchy.
fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    match unified(&table) {
        Some(path) => Ok(path.into()),
        None => bail!("no cgroup2 file system is mounted; run `cargo xtask setup`"),
    }
}

/// The mount point of a whole cgroup2 hierarchy in a mountinfo table.
fn unified(table: &str) -> Option<&str> {
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (after.starts_with("cgroup2 ") && root == "/").then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kubelets() {
        let uid = "0b2c-4d";
        for (layout, qos, expected) in [
            (
                CgroupLayout::Cgroupfs,
                Qos::Guaranteed,
                "kubepods/pod0b2c-4d",
            ),
            (
                CgroupLayout::Cgroupfs,
                Qos::BestEffort,
                "kubepods/besteffort/pod0b2c-4d",
            ),
            (
                CgroupLayout::Systemd,
                Qos::Guaranteed,
                "kubepods.slice/kubepods-pod0b2c_4d.slice",
            ),
            (
                CgroupLayout::Systemd,
                Qos::Burstable,
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b2c_4d.slice",
            ),
        ] {
            assert_eq!(layout.pod(qos, uid), expected);
        }
    }

    #[test]
    fn the_hierarchy_is_where_it_is_mounted_as_a_whole() {
        let table = "30 1 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     31 1 0:31 /part /mnt rw - cgroup2 cgroup2 rw\n\
                     32 1 0:31 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(unified(table), Some("/sys/fs/cgroup/unified"));
        assert_eq!(unified(""), None);
    }

    #[test]
    fn what_killed_owners_leave_is_swept_up() {
        let mount = mount_point().unwrap();
        // No process has such a number.
        let stale = mount.join(format!("{PREFIX}4194305-0"));
        create(&stale.join("kubepods/besteffort")).unwrap();
        let files = env::temp_dir().join(format!("{PREFIX}4194305-0"));
        fs::create_dir_all(files.join("root")).unwrap();
        let node = NodeCgroup::create(CgroupLayout::Cgroupfs).unwrap();
        assert!(!stale.exists());
        assert!(!files.exists());
        assert!(node.path().join("kubepods").is_dir());
        let path = node.path().to_owned();
        drop(node);
        assert!(!path.exists());
    }
}
