//! Sockets in other network namespaces, made by one thread that does nothing else.
//!
//! A socket stays in the namespace that it was made in, wherever it is used from. So the one
//! thread is enough for all workloads, and no other thread ever enters a foreign namespace
//! for a connection.

use std::{fs::File, io, net::SocketAddr, os::fd::OwnedFd, thread};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot},
};

use super::{NetNs, NetNsError};
use crate::limits;

/// A handle on the thread, which ends with the last one.
#[derive(Clone, Debug)]
pub struct Sockets {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Order {
    netns: NetNs,
    family: AddressFamily,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

impl Sockets {
    /// Starts the thread.
    pub fn start() -> Result<Self, NetNsError> {
        let path = std::path::Path::new("/proc/thread-self/ns/net");
        let home = File::open(path).map_err(|source| NetNsError::Open {
            path: path.to_path_buf(),
            source,
        })?;
        let (orders, queue) = mpsc::channel(limits::SOCKET_ORDERS);
        thread::Builder::new()
            .name("sockets".into())
            .spawn(move || work(&home, queue))
            .map_err(NetNsError::Thread)?;
        Ok(Self { orders })
    }

    /// Makes a TCP socket for a connection to `addr` in a namespace.
    pub async fn tcp(&self, netns: &NetNs, addr: SocketAddr) -> io::Result<TcpSocket> {
        let (reply, answer) = oneshot::channel();
        let family = if addr.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let netns = netns.clone();
        let order = Order {
            netns,
            family,
            reply,
        };
        let gone = || io::Error::other("the thread that makes sockets has stopped");
        self.orders.send(order).await.map_err(|_| gone())?;
        let socket = answer.await.map_err(|_| gone())??;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

fn work(home: &File, mut queue: mpsc::Receiver<Order>) {
    while let Some(order) = queue.blocking_recv() {
        let Order {
            netns,
            family,
            reply,
        } = order;
        let made = netns.enter().and_then(|()| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(family, SockType::Stream, flags, None)
        });
        // Lest it keep the namespace of a pod that is gone.
        drop(netns);
        if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
            tracing::error!("cannot leave a workload's network namespace: {error}");
            return;
        }
        // Nobody waits for it any more.
        let _ = reply.send(made.map_err(io::Error::from));
    }
}
