//! Pods that come and go.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::unix::AsyncFd;

use super::{PodCgroup, PodsError, tree};

/// What happened to a pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// It was made, or was there from the start.
    Appeared(PodCgroup),
    /// It was removed: the pod is gone for good.
    Vanished(PodCgroup),
}

/// Watches the directories that hold pods.
///
/// A notification only says that something changed; what did is found by reading the
/// directories again. So nothing depends on the order or the number of notifications, and a
/// queue that overflowed does no harm.
pub struct PodWatcher {
    mount: PathBuf,
    inotify: AsyncFd<Watch>,
    watched: BTreeSet<PathBuf>,
    known: BTreeMap<u64, PodCgroup>,
    pending: VecDeque<PodEvent>,
}

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(unsafe_code, reason = "tokio asks for it with every descriptor")]
fn register(watch: Watch) -> io::Result<AsyncFd<Watch>> {
    // SAFETY: `Watch` owns its descriptor, and nothing replaces or closes it while the
    // `AsyncFd` owns the `Watch`.
    Ok(unsafe { AsyncFd::register(watch) }?)
}

impl PodWatcher {
    /// Watches the kubelet's directories below a cgroup2 mount. The pods that are there
    /// already come as the first events.
    pub fn new(mount: &Path) -> Result<Self, PodsError> {
        let failed = |source: io::Error| PodsError::Watch {
            path: mount.to_path_buf(),
            source,
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let mut watcher = Self {
            mount: mount.to_path_buf(),
            inotify: register(Watch(inotify)).map_err(failed)?,
            watched: BTreeSet::new(),
            known: BTreeMap::new(),
            pending: VecDeque::new(),
        };
        watcher.rescan()?;
        if watcher.watched.is_empty() {
            return Err(PodsError::NoKubepods(mount.to_path_buf()));
        }
        Ok(watcher)
    }

    /// The next change of those that were found already.
    pub fn try_next(&mut self) -> Option<PodEvent> {
        self.pending.pop_front()
    }

    /// The next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<PodEvent, PodsError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            self.wait().await.map_err(|source| PodsError::Watch {
                path: self.mount.clone(),
                source,
            })?;
            self.rescan()?;
        }
    }

    /// Waits for a notification, and takes all that are there.
    async fn wait(&self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        loop {
            match self.inotify.get_ref().0.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }

    fn rescan(&mut self) -> Result<(), PodsError> {
        let holders = loop {
            let holders = tree::holders(&self.mount);
            // A directory that is made while another is being watched must not be missed.
            if !self.watch(&holders)? {
                break holders;
            }
        };
        let found = tree::pods(&holders);
        let gone = self.known.iter().filter(|(id, _)| !found.contains_key(id));
        let came = found.iter().filter(|(id, _)| !self.known.contains_key(id));
        let events = gone
            .map(|(_, pod)| PodEvent::Vanished(pod.clone()))
            .chain(came.map(|(_, pod)| PodEvent::Appeared(pod.clone())));
        self.pending.extend(events);
        self.known = found;
        Ok(())
    }

    /// Watches what is not watched yet; true when there was something.
    fn watch(&mut self, holders: &[PathBuf]) -> Result<bool, PodsError> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        // The kernel drops the watch of a directory that is removed.
        self.watched.retain(|path| path.exists());
        let mut news = false;
        for holder in holders {
            if self.watched.contains(holder) {
                continue;
            }
            match self.inotify.get_ref().0.add_watch(holder, flags) {
                Ok(_) => {
                    self.watched.insert(holder.clone());
                    news = true;
                }
                // Gone again.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(PodsError::Watch {
                        path: holder.clone(),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(news)
    }
}
