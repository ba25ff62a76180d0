//! Where connections on a workload's behalf leave from.

use std::{
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::TcpStream;

use super::{NetNs, Sockets};

/// The way out of one workload: its network namespace, so that its network policy and its
/// source address hold for what is dialled on its behalf.
#[derive(Debug)]
pub struct Egress {
    id: EgressId,
    /// `None` is the namespace of this process.
    foreign: Option<(NetNs, Sockets)>,
}

/// Tells the connections of one workload from those of all others.
#[derive(Clone, Debug)]
pub struct EgressId(Arc<AtomicBool>);

impl Egress {
    /// Out of the namespace of this process.
    pub fn own() -> Self {
        Self {
            id: EgressId(Arc::default()),
            foreign: None,
        }
    }

    /// Out of another namespace, with sockets that `sockets` makes there.
    pub fn of(netns: NetNs, sockets: Sockets) -> Self {
        Self {
            foreign: (!netns.is_own()).then_some((netns, sockets)),
            ..Self::own()
        }
    }

    /// Its identity.
    pub fn id(&self) -> &EgressId {
        &self.id
    }

    /// Whether it is another namespace than that of this process.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// Opens a connection.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        match &self.foreign {
            None => TcpStream::connect(addr).await,
            Some((netns, sockets)) => sockets.tcp(netns, addr).await?.connect(addr).await,
        }
    }

    /// No connection is kept for later from now on: an idle one would keep the namespace of
    /// a pod that is gone.
    pub(super) fn close(&self) {
        self.id.0.store(true, Ordering::SeqCst);
    }
}

impl EgressId {
    /// Whether its workload is gone.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl PartialEq for EgressId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for EgressId {}

impl Hash for EgressId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
