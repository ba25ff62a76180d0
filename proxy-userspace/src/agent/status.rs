//! What the agent tells about itself, on a socket in its run directory: a port would be one
//! of the node's.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};

use crate::limits;

const SOCKET: &str = "agent.sock";

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its node.
    pub node: String,
    /// Whether its main loop turns.
    pub live: bool,
    /// Whether the pods that were there when it started are served, as far as they can be.
    pub ready: bool,
    /// Whether the controller's stream is up.
    pub connected: bool,
    /// Version of the newest state that came from the controller; none before the first.
    pub state_version: Option<u64>,
    /// Connectors in it.
    pub connectors: usize,
    /// Stand-ins for Connectors of which it is not known yet whether pods are granted them.
    #[serde(default)]
    pub undecided: usize,
    /// Hosts of Connectors that wait for the controller to sign this node's authority for them, or
    /// that it has no room for.
    pub unsigned_hosts: usize,
    /// Pods that are served.
    pub pods: usize,
    /// Pods that have Connectors granted, or may have, and are not served yet.
    pub waiting_pods: usize,
    /// Connections that are open.
    pub connections: u64,
    /// Requests that got a credential.
    pub injected: u64,
    /// Pods that did not trust Postern's certificates of late.
    #[serde(default)]
    pub untrusting: Vec<Untrusting>,
    /// The proxy's counters, since the agent started.
    #[serde(default)]
    pub proxy: BTreeMap<String, u64>,
    /// The kernel's counters, since the first agent of this version of the maps; empty while this
    /// one serves nobody.
    #[serde(default)]
    pub kernel: BTreeMap<String, u64>,
}

/// A pod that ended connections to a host because of Postern's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Untrusting {
    /// The pod.
    pub workload: String,
    /// The host of a Connector.
    pub host: String,
    /// How many.
    pub connections: u64,
}

/// Counters by name, of a text with `name=value` words: that of `--stats` is the one place that
/// names them all.
pub(super) fn counters(text: &impl Display) -> BTreeMap<String, u64> {
    let text = text.to_string();
    let words = text.split([' ', ';']);
    words
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Why an agent cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error("no agent answers at {}: {source}; is `postern agent` running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// It took the question and gave no answer.
    #[error("the agent at {} does not answer", .0.display())]
    Silent(PathBuf),
    /// An answer of another version.
    #[error("the agent at {} answered something else than a status: {source}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
}

/// What a status depends on that may change at each turn of the main loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Changes of pods so far.
    pub(super) pods: u64,
    pub(super) served: bool,
    /// Version of the controller's state.
    pub(super) state: Option<u64>,
    /// When the authority was signed.
    pub(super) signed: Option<Instant>,
    pub(super) connected: bool,
}

/// What was reported last: to work out a status costs more than most turns do.
#[derive(Default)]
pub(super) struct News(Option<Facts>);

impl News {
    /// Whether that was something else.
    pub(super) fn is_news(&mut self, facts: Facts) -> bool {
        self.0.replace(facts) != Some(facts)
    }
}

/// The newest status, and when the main loop last turned.
#[derive(Debug)]
pub(super) struct Board(Mutex<(Status, Instant)>);

impl Board {
    pub(super) fn new(node: &str) -> Self {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: node.to_owned(),
            ..Status::default()
        };
        Self(Mutex::new((status, Instant::now())))
    }

    /// Changes the status; that is a sign of life as well.
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut board = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut board.0);
        board.1 = Instant::now();
    }

    fn read(&self) -> Status {
        let board = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Status {
            live: board.1.elapsed() < limits::STUCK,
            ..board.0.clone()
        }
    }
}

/// The socket; removed when dropped, unless a successor has put its own there.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<u64>,
}

impl Socket {
    /// Listens in the run directory, in place of an agent that was there before.
    pub(super) fn bind(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(SOCKET);
        let new = directory.join(format!("{SOCKET}.{}", std::process::id()));
        // What an agent that was killed before it got further left behind.
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &path)?;
        let inode = inode(&path);
        Ok(Self {
            listener,
            path,
            inode,
        })
    }

    /// Answers everybody who asks.
    pub(super) async fn serve(&self, board: &Board) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // One small line fits into the socket's buffer.
                    let _ = timeout(limits::STATUS, answer(stream, board.read())).await;
                }
                Err(error) => {
                    tracing::error!("cannot accept on {}: {error}", self.path.display());
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|found| found.ino())
}

async fn answer(mut stream: UnixStream, status: Status) -> io::Result<()> {
    let mut line = serde_json::to_vec(&status)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Asks the agent whose run directory this is.
pub async fn ask(directory: &Path) -> Result<Status, StatusError> {
    let path = directory.join(SOCKET);
    let conversation = async {
        let mut text = Vec::new();
        let stream = UnixStream::connect(&path).await?;
        stream.take(1 << 20).read_to_end(&mut text).await?;
        io::Result::Ok(text)
    };
    let text = match timeout(limits::STATUS, conversation).await {
        Ok(Ok(text)) => text,
        Ok(Err(source)) => return Err(StatusError::Connect { path, source }),
        Err(_) => return Err(StatusError::Silent(path)),
    };
    serde_json::from_slice(&text).map_err(|source| StatusError::Answer { path, source })
}

#[cfg(test)]
mod tests {
    use proxy_common::maps::Stats;

    use super::*;
    use crate::telemetry::Counters;

    #[test]
    fn every_counter_has_its_name() {
        let stats = Stats {
            connects: 3,
            dns_unasked: 7,
            learned_full: u64::MAX,
            ..Stats::default()
        };
        let kernel = counters(&stats);
        assert_eq!(kernel.len(), size_of::<Stats>() / size_of::<u64>());
        let value = |name: &str| kernel.get(name).copied();
        assert_eq!(value("connects"), Some(3));
        assert_eq!(value("dns_unasked"), Some(7));
        assert_eq!(value("learned_full"), Some(u64::MAX));

        let proxy = Counters::default();
        Counters::add(&proxy.failed_accepts, 2);
        Counters::add(&proxy.scrubbed, 5);
        let proxy = counters(&proxy);
        let value = |name: &str| proxy.get(name).copied();
        // The last one of each part.
        assert_eq!(value("failed_accepts"), Some(2));
        assert_eq!(value("scrubbed"), Some(5));
        assert_eq!(value("accepted"), Some(0));
    }

    #[test]
    fn a_turn_that_changes_nothing_is_no_news() {
        let facts = Facts {
            pods: 1,
            served: false,
            state: Some(1),
            signed: None,
            connected: true,
        };
        let mut news = News::default();
        assert!(news.is_news(facts));
        assert!(!news.is_news(facts));
        for other in [
            Facts { pods: 2, ..facts },
            Facts {
                served: true,
                ..facts
            },
            Facts {
                state: Some(2),
                ..facts
            },
            Facts {
                signed: Some(Instant::now()),
                ..facts
            },
            Facts {
                connected: false,
                ..facts
            },
        ] {
            assert!(news.is_news(other) && news.is_news(facts));
        }
    }
}
