//! What a run leaves on the machine while it lives, and the removal of what dead runs left.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
};

use crate::workload::Cgroup;

const PREFIX: &str = "run-";
const LOCK: &str = "lock";
const CGROUP: &str = "cgroup";
const MOUNT: &str = "hierarchy";

/// A directory of one run, removed when dropped. A lock on a file in it says that its owner
/// lives; the kernel releases it however the owner ends.
pub(super) struct RunDir {
    path: PathBuf,
    name: String,
    _lock: Flock<File>,
}

impl RunDir {
    /// Removes what dead runs left behind and makes a directory for this one.
    pub(super) fn create() -> Result<Self> {
        let base = base();
        // One at a time: a directory that is not locked yet looks like a dead run's.
        let _turn = take_turn(&base)?;
        remove_dead(&base);
        // The number of a process is unique in its namespace only.
        let (path, name) = (0..100)
            .find_map(|n| {
                let name = match n {
                    0 => format!("{PREFIX}{}", std::process::id()),
                    n => format!("{PREFIX}{}-{n}", std::process::id()),
                };
                let path = base.join(&name);
                (!path.exists()).then_some((path, name))
            })
            .with_context(|| format!("no free name in {}", base.display()))?;
        make(&path)?;
        let lock = lock(&path).with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self {
            path,
            name,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cgroup_name(&self) -> String {
        cgroup_name(&self.name)
    }

    /// Where a cgroup hierarchy may be mounted for this run.
    pub(super) fn spare_mount(&self) -> PathBuf {
        self.path.join(MOUNT)
    }

    /// Writes down which cgroup has to go with this directory.
    pub(super) fn remember_cgroup(&self, cgroup: &Cgroup) -> Result<()> {
        let path = self.path.join(CGROUP);
        fs::write(&path, cgroup.below_mount().as_os_str().as_encoded_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // A run that starts meanwhile would take the directory for a dead one's.
        let base = base();
        let turn = take_turn(&base);
        if let Err(error) = remove_run(&self.path, &self.name) {
            tracing::warn!("cannot clean up: {error:#}");
        }
        // The last one turns off the light; others may be there.
        if turn.is_ok() {
            let _ = fs::remove_dir(&base);
        }
    }
}

/// `/run/postern` for root; else a directory that belongs to the user.
fn base() -> PathBuf {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/postern");
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        // It may be left from another user's session.
        .filter(|dir| {
            fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == uid.as_raw())
        })
        .map_or_else(
            || std::env::temp_dir().join(format!("postern-{uid}")),
            |dir| dir.join("postern"),
        )
}

/// Makes the base directory if need be, and locks it.
fn take_turn(base: &Path) -> Result<Flock<File>> {
    // The last run of all removes the directory, perhaps while this one waits for its lock.
    for _ in 0..100 {
        match make(base) {
            Err(_) if base.exists() => {}
            made => made?,
        }
        match check_owner(base) {
            Err(_) if !base.exists() => continue,
            checked => checked?,
        }
        let Ok(directory) = File::open(base) else {
            continue;
        };
        let locked = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("cannot lock {}", base.display()))?;
        let same =
            |found: fs::Metadata| locked.metadata().is_ok_and(|own| own.ino() == found.ino());
        if fs::symlink_metadata(base).is_ok_and(same) {
            return Ok(locked);
        }
    }
    bail!("cannot lock {}: it keeps being replaced", base.display());
}

/// Somebody else may have been first in a directory that everybody may write to; what lies
/// there decides whom the command trusts and which processes are killed.
fn check_owner(base: &Path) -> Result<()> {
    let found =
        fs::symlink_metadata(base).with_context(|| format!("cannot look at {}", base.display()))?;
    let own = found.uid() == nix::unistd::geteuid().as_raw();
    if !found.is_dir() || !own || found.mode() & 0o022 != 0 {
        bail!(
            "{} is not a directory that only this user can write to; remove it, or set \
             XDG_RUNTIME_DIR to one",
            base.display()
        );
    }
    Ok(())
}

/// A directory that others may read, whatever the umask: the command may run as another user.
fn make(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot make {}", path.display()))
}

fn lock(dir: &Path) -> io::Result<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

fn cgroup_name(run: &str) -> String {
    format!("postern-{run}")
}

fn remove_dead(base: &Path) {
    let runs = fs::read_dir(base).into_iter().flatten().flatten();
    for run in runs {
        let name = run.file_name().to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let path = run.path();
        // Locked: its owner lives.
        let Ok(_lock) = lock(&path) else { continue };
        if let Err(error) = remove_run(&path, &name) {
            tracing::warn!("cannot clean up after a dead run: {error:#}");
        }
    }
}

fn remove_run(path: &Path, name: &str) -> Result<()> {
    match fs::read_to_string(path.join(CGROUP)) {
        Ok(cgroup) => {
            let cgroup = Path::new(&cgroup);
            if cgroup.file_name() != Some(cgroup_name(name).as_ref()) {
                bail!("{} is not the cgroup of {name}", cgroup.display());
            }
            Cgroup::remove_below_mount(cgroup)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot read which cgroup it had"),
    }
    let mount = path.join(MOUNT);
    // What is below a mount is not ours to remove.
    if mount.exists() {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
        fs::remove_dir(&mount).with_context(|| format!("cannot remove {}", mount.display()))?;
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}
