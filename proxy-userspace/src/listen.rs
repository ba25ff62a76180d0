//! What was dialled: listeners in the workload's network namespace, and the way from an
//! accepted connection back to the address that the workload wanted.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    sync::Arc,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{net::TcpListener, time::sleep};

use crate::{
    admission::{Share, Slot},
    datapath::FlowTable,
    limits,
    telemetry::{Counters, Seldom},
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
    /// Listens on free loopback ports of a namespace. Has to be called within a runtime, which
    /// the listeners belong to.
    pub fn bind(netns: &NetNs) -> Result<Self, ListenError> {
        let (v4, v6) = netns.run(|| {
            (
                listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
                listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
            )
        })?;
        Ok(Self {
            v4: v4
                .and_then(TcpListener::from_std)
                .map_err(ListenError::Bind)?,
            v6: v6
                .ok()
                .map(TcpListener::from_std)
                .transpose()
                .map_err(ListenError::Bind)?,
        })
    }

    /// Ports of the IPv4 and the IPv6 listener; 0 when there is none.
    pub fn ports(&self) -> (u16, u16) {
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

/// Accepts for one workload until the future is dropped.
pub async fn accept(
    listeners: Listeners,
    workload: Arc<Enrolment>,
    flows: Arc<FlowTable>,
    share: Arc<Share>,
    counters: Arc<Counters>,
    deliver: impl Fn(Inbound),
) {
    let accept = Accept {
        workload,
        flows,
        counters,
        share,
        failures: Seldom::new(limits::COMPLAIN_AGAIN),
        strangers: Seldom::new(limits::COMPLAIN_AGAIN),
        deliver,
    };
    match &listeners.v6 {
        Some(v6) => {
            tokio::join!(accept.on(&listeners.v4), accept.on(v6));
        }
        None => accept.on(&listeners.v4).await,
    }
}

/// What the two listeners of one workload share.
struct Accept<D> {
    workload: Arc<Enrolment>,
    flows: Arc<FlowTable>,
    counters: Arc<Counters>,
    share: Arc<Share>,
    /// Connections that could not be accepted.
    failures: Seldom,
    /// Connections without a flow.
    strangers: Seldom,
    deliver: D,
}

impl<D: Fn(Inbound)> Accept<D> {
    async fn on(&self, listener: &TcpListener) {
        let via_port = port(listener);
        loop {
            // Until then connections wait in the kernel's backlog.
            self.share.room(&self.workload.name).await;
            let accepted = match listener.accept().await {
                Ok((stream, peer)) => stream.into_std().map(|stream| (stream, peer)),
                Err(error) => Err(error),
            };
            match accepted {
                Ok((stream, peer)) => self.accepted(stream, peer, via_port),
                Err(error) => {
                    self.failed(&error);
                    // Out of descriptors: accept() fails at once and would spin.
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accepted(&self, stream: TcpStream, peer: SocketAddr, via_port: u16) {
        let Some(flow) = self.flows.find(self.workload.cgroup_id, peer, via_port) else {
            Counters::add(&self.counters.unknown_flows, 1);
            if is_gone(&stream) {
                // Its flow ended with it.
                tracing::debug!(workload = self.workload.name, %peer, "closed before it was accepted");
            } else if let Some(count) = self.strangers.happened() {
                tracing::warn!(
                    workload = self.workload.name,
                    %peer,
                    count,
                    "reset connections that no enrolled workload made through connect()"
                );
            }
            reset(&stream);
            return;
        };
        Counters::add(&self.counters.accepted, 1);
        (self.deliver)(Inbound {
            stream,
            workload: Arc::clone(&self.workload),
            dialled: flow.addr,
            connector: flow.connector,
            slot: self.share.enter(),
        });
    }

    fn failed(&self, error: &io::Error) {
        Counters::add(&self.counters.failed_accepts, 1);
        if let Some(count) = self.failures.happened() {
            tracing::error!(
                workload = self.workload.name,
                count,
                "cannot accept: {error}"
            );
        }
    }
}

/// Whether a client has closed without a word, as those do that only try whether they can connect.
fn is_gone(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Port of a listener; 0, which is nobody's, if the kernel does not tell it.
fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |addr| addr.port())
}

fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    prepare(&listener)?;
    Ok(listener)
}

/// Sets what the connections that a listener accepts have from their first byte on.
pub fn prepare(listener: &impl AsFd) -> io::Result<()> {
    // Answers are written whole. Nagle's algorithm would keep the first one behind the tickets of
    // TLS until the client has acknowledged those, for which it takes its time (40 ms).
    setsockopt(listener, sockopt::TcpNoDelay, &true)?;
    // An urgent byte, as old clients send, keeps its place among the others (RFC 6093, section 6).
    setsockopt(listener, sockopt::OobInline, &true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn what_is_accepted_is_neither_delayed_nor_reordered() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a listener");
        listener.set_nonblocking(false).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let _client = TcpStream::connect(address).expect("a connection");
        let (stream, _) = listener.accept().expect("a connection");
        assert!(stream.nodelay().expect("a socket"));
        assert!(getsockopt(&stream, sockopt::OobInline).expect("a socket"));
    }
}
