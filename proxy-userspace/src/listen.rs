//! What was dialled: listeners in the workload's network namespace, and the way from an
//! accepted connection back to the address that the workload wanted.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::{
    datapath::FlowTable,
    limits,
    telemetry::Counters,
    upstream::reset,
    workload::{Enrolment, NetNs, NetNsError},
};

/// Why a workload has no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// The socket cannot be made.
    #[error("cannot listen on 127.0.0.1 in the workload's network namespace: {0}")]
    Bind(#[source] io::Error),
}

/// The two listeners of one workload.
#[derive(Debug)]
pub struct Listeners {
    v4: TcpListener,
    /// Missing where the namespace has no IPv6.
    v6: Option<TcpListener>,
}

impl Listeners {
    /// Listens on free loopback ports of a namespace.
    pub fn bind(netns: &NetNs) -> Result<Self, ListenError> {
        let (v4, v6) = netns.run(|| {
            (
                listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
                listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
            )
        })?;
        Ok(Self {
            v4: v4.map_err(ListenError::Bind)?,
            v6: v6.ok(),
        })
    }

    /// Ports of the IPv4 and the IPv6 listener; 0 when there is none.
    pub fn ports(&self) -> (u16, u16) {
        let port = |listener: &TcpListener| listener.local_addr().map_or(0, |addr| addr.port());
        (port(&self.v4), self.v6.as_ref().map_or(0, port))
    }
}

/// A connection that a workload made and the kernel redirected.
#[derive(Debug)]
pub struct Inbound {
    /// The connection, non-blocking.
    pub stream: TcpStream,
    /// Who made it.
    pub workload: Arc<Enrolment>,
    /// The address and port that it dialled.
    pub dialled: SocketAddr,
    /// The Connector that the kernel matched; 0 when there are several at the address.
    pub connector: u32,
    /// Counts it as open for as long as it lives.
    pub slot: Slot,
}

/// A place among the open connections of a workload.
#[derive(Debug)]
pub struct Slot {
    counters: Arc<Counters>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(counters: &Arc<Counters>, permit: OwnedSemaphorePermit) -> Self {
        Counters::add(&counters.open, 1);
        Self {
            counters: Arc::clone(counters),
            _permit: permit,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        Counters::subtract(&self.counters.open, 1);
    }
}

/// Accepts for one workload until the future is dropped.
pub async fn accept(
    listeners: Listeners,
    workload: Arc<Enrolment>,
    flows: Arc<FlowTable>,
    counters: Arc<Counters>,
    deliver: impl Fn(Inbound) + Clone,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_WORKLOAD));
    let on = |listener| {
        accept_on(
            listener,
            Arc::clone(&workload),
            Arc::clone(&flows),
            Arc::clone(&counters),
            Arc::clone(&permits),
            deliver.clone(),
        )
    };
    match listeners.v6 {
        Some(v6) => tokio::try_join!(on(listeners.v4), on(v6)).map(|_| ()),
        None => on(listeners.v4).await,
    }
}

async fn accept_on(
    listener: TcpListener,
    workload: Arc<Enrolment>,
    flows: Arc<FlowTable>,
    counters: Arc<Counters>,
    permits: Arc<Semaphore>,
    deliver: impl Fn(Inbound),
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        // Over the limit connections wait in the kernel's backlog.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return Ok(());
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: accept() fails at once and would spin.
                tracing::error!(workload = workload.name, "cannot accept: {error}");
                sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let stream = stream.into_std()?;
        if let Some(flow) = flows.find(workload.cgroup_id, peer) {
            Counters::add(&counters.accepted, 1);
            deliver(Inbound {
                stream,
                workload: Arc::clone(&workload),
                dialled: flow.addr,
                connector: flow.connector,
                slot: Slot::new(&counters, permit),
            });
        } else {
            Counters::add(&counters.unknown_flows, 1);
            tracing::warn!(
                workload = workload.name,
                %peer,
                "reset a connection that no enrolled workload made through connect()"
            );
            reset(&stream);
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
