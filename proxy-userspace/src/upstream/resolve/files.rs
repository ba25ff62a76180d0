//! The files that say how names are resolved, read again when they change.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::config::{Hosts, NameServers};
use crate::limits;

/// What the files say.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// Counts the changes of the files.
    pub(super) epoch: u64,
    pub(super) servers: Arc<NameServers>,
    pub(super) hosts: Arc<Hosts>,
}

/// `/etc/resolv.conf` and `/etc/hosts`, or what stands in for them.
///
/// They are read by whoever asks, in that thread's mount namespace, and looked at once a second
/// at most.
#[derive(Debug)]
pub(super) struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    resolv_conf: Watched,
    hosts: Watched,
    config: Config,
}

/// A file as it was when it was looked at last.
#[derive(Debug, Default)]
struct Watched {
    stamp: Option<Stamp>,
    /// What was complained about.
    fault: Option<String>,
}

/// Tells one state of a file from another, whether it is written over or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Missing,
    Unreadable,
    File {
        device: u64,
        inode: u64,
        size: u64,
        /// Of the last change, seconds and nanoseconds.
        changed: (i64, i64),
    },
}

impl Files {
    pub(super) fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self {
            resolv_conf,
            hosts,
            state: Mutex::default(),
        }
    }

    /// Has them looked at next time, however soon that is.
    #[cfg(test)]
    pub(super) fn look_again(&self) {
        self.state.lock().expect("no panic before").looked = None;
    }

    /// What they say now.
    pub(super) fn config(&self) -> Config {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last| now.duration_since(last) >= limits::NAME_FILES_WATCH;
        if state.looked.is_none_or(is_due) {
            state.looked = Some(now);
            state.look(&self.resolv_conf, &self.hosts);
        }
        state.config.clone()
    }
}

impl State {
    fn look(&mut self, resolv_conf: &Path, hosts: &Path) {
        let mut changed = false;
        if let Some(read) = self
            .resolv_conf
            .read(resolv_conf, limits::RESOLV_CONF_BYTES)
            && let Some(servers) = self.resolv_conf.servers(resolv_conf, read)
        {
            changed |= *self.config.servers != servers;
            self.config.servers = Arc::new(servers);
        }
        if let Some(read) = self.hosts.read(hosts, limits::HOSTS_BYTES)
            && let Some(names) = self.hosts.names(hosts, read)
        {
            changed = true;
            self.config.hosts = Arc::new(names);
        }
        self.config.epoch += u64::from(changed);
    }
}

impl Watched {
    /// The content, unless it is what it was.
    fn read(&mut self, path: &Path, limit: u64) -> Option<io::Result<Vec<u8>>> {
        // The file that is read is the one whose stamp is kept: what replaces it later is seen.
        let opened = File::open(path).and_then(|file| Ok((Stamp::of(&file.metadata()?), file)));
        let stamp = match &opened {
            Ok((stamp, _)) => *stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stamp::Missing,
            Err(_) => Stamp::Unreadable,
        };
        if self.stamp.replace(stamp) == Some(stamp) {
            return None;
        }
        Some(opened.and_then(|(_, file)| {
            let mut text = Vec::new();
            file.take(limit + 1).read_to_end(&mut text)?;
            if text.len() as u64 > limit {
                return Err(io::Error::other(format!("larger than {limit} bytes")));
            }
            Ok(text)
        }))
    }

    /// `None` leaves what there was.
    fn servers(&mut self, path: &Path, read: io::Result<Vec<u8>>) -> Option<NameServers> {
        let fault = match read {
            Ok(text) => match NameServers::parse(&text) {
                Ok(servers) => {
                    self.fault = None;
                    return Some(servers);
                }
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let servers = NameServers::default();
                self.complain(format!(
                    "there is no {}: names are asked of 127.0.0.1",
                    path.display()
                ));
                return Some(servers);
            }
            Err(error) => error.to_string(),
        };
        self.complain(format!(
            "cannot use {}: {fault}; name servers stay what they were (at first 127.0.0.1) until \
             it is repaired",
            path.display()
        ));
        None
    }

    /// `None` leaves what there was.
    fn names(&mut self, path: &Path, read: io::Result<Vec<u8>>) -> Option<Hosts> {
        match read {
            Ok(text) => {
                self.fault = None;
                Some(Hosts::parse(&text))
            }
            // Nothing needs one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Hosts::default()),
            Err(error) => {
                self.complain(format!(
                    "cannot use {}: {error}; its names stay what they were until it is repaired",
                    path.display()
                ));
                None
            }
        }
    }

    /// Once for as long as it is so.
    fn complain(&mut self, fault: String) {
        if self.fault.as_ref() != Some(&fault) {
            tracing::warn!("{fault}");
            self.fault = Some(fault);
        }
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
