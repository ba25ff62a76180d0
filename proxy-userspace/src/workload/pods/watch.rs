//! Pods that come and go.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};

use super::{PodCgroup, PodsError, tree};
use crate::limits;

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
/// queue that overflowed does no harm. Where they cannot be read or watched for a while, what
/// is known stays, and they are read again and again.
pub struct PodWatcher {
    mount: PathBuf,
    inotify: AsyncFd<Watch>,
    watched: BTreeMap<PathBuf, WatchDescriptor>,
    known: BTreeMap<u64, PodCgroup>,
    pending: VecDeque<PodEvent>,
    /// When to read the directories without having been notified.
    again: Instant,
    /// The last reading failed, which was complained about.
    failed: bool,
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
            watched: BTreeMap::new(),
            known: BTreeMap::new(),
            pending: VecDeque::new(),
            again: Instant::now() + limits::PODS_AGAIN,
            failed: false,
        };
        if let Some(unwatched) = watcher.rescan()? {
            return Err(unwatched);
        }
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
            // Otherwise it is time to look without having been notified.
            if let Ok(notified) = timeout_at(self.again, self.wait()).await {
                notified.map_err(|source| PodsError::Watch {
                    path: self.mount.clone(),
                    source,
                })?;
            }
            self.keep_up();
        }
    }

    /// Reads the directories; where that fails, what is known stays.
    fn keep_up(&mut self) {
        let failure = match self.rescan() {
            Ok(unwatched) => unwatched,
            Err(error) => Some(error),
        };
        // A kubelet that starts anew makes its directory anew, of which nothing notifies.
        let soon = failure.is_some() || self.watched.is_empty();
        self.again = Instant::now()
            + if soon {
                limits::PODS_SOON
            } else {
                limits::PODS_AGAIN
            };
        match &failure {
            Some(error) if !self.failed => {
                tracing::error!("pods that come or go are noticed late: {error}");
            }
            None if self.failed => tracing::info!("pods are noticed at once again"),
            _ => {}
        }
        self.failed = failure.is_some();
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

    /// Finds what has changed, and returns what could not be watched.
    fn rescan(&mut self) -> Result<Option<PodsError>, PodsError> {
        let (holders, unwatched) = loop {
            let holders = tree::holders(&self.mount)?;
            let (news, unwatched) = self.watch(&holders);
            // A directory that is made while another is being watched must not be missed.
            if !news {
                break (holders, unwatched);
            }
        };
        let found = tree::pods(&holders)?;
        let gone = self.known.iter().filter(|(id, _)| !found.contains_key(id));
        let came = found.iter().filter(|(id, _)| !self.known.contains_key(id));
        let events = gone
            .map(|(_, pod)| PodEvent::Vanished(pod.clone()))
            .chain(came.map(|(_, pod)| PodEvent::Appeared(pod.clone())));
        self.pending.extend(events);
        self.known = found;
        Ok(unwatched)
    }

    /// Watches all holders, and says whether there was a new one and what could not be watched.
    ///
    /// Those that are watched already are asked for again, which costs nothing: one that was
    /// removed and made again under its name has another descriptor.
    fn watch(&mut self, holders: &[PathBuf]) -> (bool, Option<PodsError>) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        let before = std::mem::take(&mut self.watched);
        let mut news = false;
        let mut unwatched = None;
        for holder in holders {
            match self.inotify.get_ref().0.add_watch(holder, flags) {
                Ok(watch) => {
                    news |= before.get(holder) != Some(&watch);
                    self.watched.insert(holder.clone(), watch);
                }
                // Gone again.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    unwatched = Some(PodsError::Watch {
                        path: holder.clone(),
                        source: errno.into(),
                    });
                }
            }
        }
        (news, unwatched)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FIRST: &str = "kubepods/pod0e4b2a1c-77d1-4f0e-9c55-2f6f3a1b9d10";
    const SECOND: &str = "kubepods/pod5d1f9f3e-2f4c-4c8e-8a63-0e1fb0c3a7d2";

    #[tokio::test]
    async fn what_cannot_be_read_has_not_vanished() {
        let directory = testkit::TempDir::new("pods").expect("a directory");
        let file = directory.write("file", "").expect("a file");
        let tree = directory.join("tree");
        fs::create_dir_all(tree.join(FIRST)).expect("a pod");
        let mut watcher = PodWatcher::new(&tree).expect("a watcher");
        assert!(matches!(
            watcher.pending.pop_front(),
            Some(PodEvent::Appeared(_))
        ));

        // Like a directory that cannot be opened for lack of descriptors.
        watcher.mount = file;
        watcher.keep_up();
        assert!(watcher.failed);
        assert_eq!(watcher.pending, []);

        fs::create_dir(tree.join(SECOND)).expect("a pod");
        watcher.mount = tree;
        watcher.keep_up();
        assert!(!watcher.failed);
        let pending = Vec::from(watcher.pending);
        let [PodEvent::Appeared(pod)] = pending.as_slice() else {
            panic!("{pending:?}");
        };
        assert!(pod.path.ends_with(SECOND));
    }
}
