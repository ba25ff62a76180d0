//! What a run leaves on the machine while it lives, and the removal of what dead runs left.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::workload::Cgroup;

const PREFIX: &str = "run-";
const LOCK: &str = "lock";
const CGROUP: &str = "cgroup";

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
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&base)
            .with_context(|| format!("cannot make {}", base.display()))?;
        remove_dead(&base);
        let name = format!("{PREFIX}{}", std::process::id());
        let path = base.join(&name);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
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
        format!("postern-{}", self.name)
    }

    /// Writes down which cgroup has to go with this directory.
    pub(super) fn remember_cgroup(&self, cgroup: &Path) -> Result<()> {
        let path = self.path.join(CGROUP);
        fs::write(&path, cgroup.as_os_str().as_encoded_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
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
        .filter(|dir| dir.is_absolute())
        .map_or_else(
            || std::env::temp_dir().join(format!("postern-{uid}")),
            |dir| dir.join("postern"),
        )
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

fn remove_dead(base: &Path) {
    let runs = fs::read_dir(base).into_iter().flatten().flatten();
    for run in runs {
        if !run.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = run.path();
        // Locked: its owner lives.
        let Ok(_lock) = lock(&path) else { continue };
        if let Err(error) = remove_run(&path) {
            tracing::warn!("cannot clean up after a dead run: {error:#}");
        }
    }
}

fn remove_run(path: &Path) -> Result<()> {
    match fs::read_to_string(path.join(CGROUP)) {
        Ok(cgroup) => Cgroup::remove(Path::new(&cgroup))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot read which cgroup it had"),
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}
