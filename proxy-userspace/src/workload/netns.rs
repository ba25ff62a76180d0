//! Network namespaces, entered only on threads of their own.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns};

/// Why nothing can be done in a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// Its file, or what leads to it, cannot be opened.
    #[error("cannot look for the network namespace at {}: {source}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Its interfaces cannot be listed.
    #[error("cannot list the addresses in the network namespace: {0}")]
    Addresses(#[source] nix::errno::Errno),
    /// No thread can be had.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The kernel does not let this process in.
    #[error("cannot enter the network namespace: {0}; run as root (CAP_SYS_ADMIN)")]
    Enter(#[source] nix::errno::Errno),
}

/// A network namespace, which lives for as long as this does.
#[derive(Clone, Debug)]
pub struct NetNs {
    /// `None` is the namespace of this process.
    file: Option<Arc<File>>,
}

impl NetNs {
    /// The namespace that this process is in.
    pub fn own() -> Self {
        Self { file: None }
    }

    /// The namespace behind a file such as `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        match File::open(path) {
            Ok(file) => Ok(Self::from(file)),
            Err(source) => Err(NetNsError::Open {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    /// Inode number of its file; `None` for the namespace of this process.
    pub fn inode(&self) -> Option<u64> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        Some(metadata.ino())
    }

    /// Whether it is the namespace of this process because [`own`](Self::own) said so.
    pub fn is_own(&self) -> bool {
        self.file.is_none()
    }

    /// Moves the calling thread there, for a thread that exists for nothing else.
    pub(super) fn enter(&self) -> nix::Result<()> {
        match &self.file {
            Some(file) => setns(file, CloneFlags::CLONE_NEWNET),
            None => Ok(()),
        }
    }

    /// Runs `work` in the namespace. Sockets that it makes stay there.
    ///
    /// A thread is started for it and ends with it, so that no other work can ever find
    /// itself in a foreign namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        if self.is_own() {
            return Ok(work());
        }
        thread::scope(|scope| {
            let entered = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    self.enter().map_err(NetNsError::Enter)?;
                    Ok(work())
                })
                .map_err(NetNsError::Thread)?;
            match entered.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl From<File> for NetNs {
    fn from(file: File) -> Self {
        Self {
            file: Some(Arc::new(file)),
        }
    }
}
