//! Sockets in other network namespaces, made by one thread that does nothing else.
//!
//! A socket stays in the namespace that it was made in, wherever it is used from. So the one
//! thread is enough for all workloads, and no other thread ever enters a foreign namespace
//! for a connection.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

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
    /// The namespace of this process.
    home: Arc<File>,
    /// Leads to the thread; replaced when that has stopped.
    orders: Arc<Mutex<mpsc::Sender<Order>>>,
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
        let home = Arc::new(home);
        let orders = start(&home).map_err(NetNsError::Thread)?;
        Ok(Self {
            home,
            orders: Arc::new(Mutex::new(orders)),
        })
    }

    /// Makes a TCP socket for a connection to `addr` in a namespace.
    pub async fn tcp(&self, netns: &NetNs, addr: SocketAddr) -> io::Result<TcpSocket> {
        let family = if addr.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let orders = self.orders();
        let made = if let Some(made) = order(&orders, netns, family).await {
            made
        } else {
            let orders = self.replace(&orders)?;
            let gone = || io::Error::other("the thread that makes sockets stops at once");
            order(&orders, netns, family).await.ok_or_else(gone)?
        };
        Ok(TcpSocket::from_std_stream(made?.into()))
    }

    fn orders(&self) -> mpsc::Sender<Order> {
        self.lock().clone()
    }

    /// Starts another thread in the place of the one behind `stopped`, unless somebody else
    /// has done so.
    fn replace(&self, stopped: &mpsc::Sender<Order>) -> io::Result<mpsc::Sender<Order>> {
        let mut orders = self.lock();
        if orders.same_channel(stopped) {
            tracing::error!("the thread that makes sockets has stopped; starting another");
            *orders = start(&self.home)?;
        }
        Ok(orders.clone())
    }

    fn lock(&self) -> MutexGuard<'_, mpsc::Sender<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(home: &Arc<File>) -> io::Result<mpsc::Sender<Order>> {
    let (orders, queue) = mpsc::channel(limits::SOCKET_ORDERS);
    let home = Arc::clone(home);
    thread::Builder::new()
        .name("sockets".into())
        .spawn(move || work(&home, queue))?;
    Ok(orders)
}

/// Has a socket made; `None` when the thread has stopped.
async fn order(
    orders: &mpsc::Sender<Order>,
    netns: &NetNs,
    family: AddressFamily,
) -> Option<io::Result<OwnedFd>> {
    let (reply, answer) = oneshot::channel();
    let order = Order {
        netns: netns.clone(),
        family,
        reply,
    };
    orders.send(order).await.ok()?;
    answer.await.ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_has_stopped_is_replaced() {
        let sockets = Sockets::start().expect("a thread");
        let shared = sockets.clone();
        *sockets.lock() = mpsc::channel(1).0;
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        for sockets in [sockets, shared] {
            let socket = sockets.tcp(&NetNs::own(), addr).await;
            assert!(socket.is_ok(), "{socket:?}");
            assert!(!sockets.orders().is_closed());
        }
    }
}
