//! Directories of a BPF file system with what agents have pinned, one for each version of the
//! maps' layout. Whoever holds the lock on one is the only writer of what is in it.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::DatapathError;

/// Prefix of the directories; the number of the version follows.
const PREFIX: &str = "abi";

/// A directory, and the right to write what is in it for as long as this lives.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) path: PathBuf,
    /// `None` while somebody else may have it.
    lock: Option<Flock<File>>,
}

/// What came of an attempt to lock a directory.
pub(super) enum Attempt {
    Locked(Locked),
    /// Somebody else holds the lock.
    Held,
    /// The directory is not there, or another one is.
    Gone,
}

/// What was removed from one directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Unloaded {
    /// The directory.
    pub directory: PathBuf,
    /// Links, each of one program to one cgroup.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

impl fmt::Display for Unloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, links, maps) = (self.directory.display(), self.links, self.maps);
        write!(f, "{path}: {links} links, {maps} maps")
    }
}

/// The directory of a version.
pub(super) fn of_version(base: &Path, abi: u32) -> PathBuf {
    base.join(format!("{PREFIX}{abi}"))
}

/// Directories of all versions.
pub(super) fn all(base: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let mut found: Vec<_> = names(base)?
        .into_iter()
        .filter(|name| name.starts_with(PREFIX))
        .map(|name| base.join(name))
        .collect();
    found.sort();
    Ok(found)
}

/// Makes a directory on a BPF file system, or refuses to make it elsewhere.
pub(super) fn make(directory: &Path) -> Result<(), DatapathError> {
    let existing = directory.ancestors().find(|path| path.exists());
    let is_bpffs = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_bpffs {
        return Err(DatapathError::NoBpffs {
            path: directory.to_path_buf(),
        });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(DatapathError::pins("make", directory))
}

impl Locked {
    /// Locks a directory, unless somebody else has.
    pub(super) fn attempt(path: &Path) -> Result<Attempt, DatapathError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Gone),
            Err(error) => return Err(DatapathError::pins("open", path)(error)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) if is_at(&lock, path) => Ok(Attempt::Locked(Self {
                path: path.to_path_buf(),
                lock: Some(lock),
            })),
            Ok(_) => Ok(Attempt::Gone),
            Err((_, Errno::EWOULDBLOCK)) => Ok(Attempt::Held),
            Err((_, errno)) => Err(DatapathError::pins("lock", path)(errno.into())),
        }
    }

    /// Lets somebody else have the lock.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    /// Locks it again; whether nobody else has.
    pub(super) fn lock_again(&mut self) -> Result<bool, DatapathError> {
        if let Attempt::Locked(locked) = Self::attempt(&self.path)? {
            *self = locked;
        }
        Ok(self.lock.is_some())
    }

    /// Removes everything. The links go first: programs without their maps would refuse what
    /// they cannot look up.
    pub(super) fn remove(&self) -> Result<Unloaded, DatapathError> {
        let links = links(&self.path)?;
        let unlink = |name: &String| {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(DatapathError::pins("remove", &path))
        };
        links.iter().try_for_each(unlink)?;
        let maps = names(&self.path)?;
        maps.iter().try_for_each(unlink)?;
        fs::remove_dir(&self.path).map_err(DatapathError::pins("remove", &self.path))?;
        Ok(Unloaded {
            directory: self.path.clone(),
            links: links.len(),
            maps: maps.len(),
        })
    }
}

/// Removes everything that agents of any version have pinned below `base`, or nothing at all
/// while one of them runs.
pub fn unload(base: &Path) -> Result<Vec<Unloaded>, DatapathError> {
    let mut all_locked = Vec::new();
    for path in all(base)? {
        match Locked::attempt(&path)? {
            Attempt::Locked(locked) => all_locked.push(locked),
            Attempt::Held => return Err(DatapathError::Running { path }),
            Attempt::Gone => {}
        }
    }
    let removed = all_locked
        .iter()
        .map(Locked::remove)
        .collect::<Result<_, _>>()?;
    match fs::remove_dir(base) {
        // What is not ours stays.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(DatapathError::pins("remove", base)(error))
        }
        _ => Ok(removed),
    }
}

/// Whether an open directory is still the one that the path leads to.
fn is_at(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() == there.ino() && open.dev() == there.dev(),
        _ => false,
    }
}

/// Names of the links in a directory: no map has a dash in its name.
pub(super) fn links(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let mut names = names(directory)?;
    names.retain(|name| name.contains('-'));
    Ok(names)
}

/// Ids of the cgroups that a program is attached to.
pub(super) fn attached(directory: &Path, hook: &str) -> Result<BTreeSet<u64>, DatapathError> {
    let links = links(directory)?;
    let ids = links.iter().filter_map(|name| {
        let (name, id) = name.rsplit_once('-')?;
        (name == hook).then(|| id.parse().ok()).flatten()
    });
    Ok(ids.collect())
}

/// What is in a directory; nothing when there is none.
fn names(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let failed = DatapathError::pins("list", directory);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(failed)
}
