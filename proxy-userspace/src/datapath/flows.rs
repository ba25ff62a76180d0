//! Where an accepted connection wanted to go.

use std::net::SocketAddr;

use aya::maps::{HashMap, MapData};
use proxy_common::maps::{FlowKey, Origin};

use super::{ip_address, map_address};

/// The kernel's record of redirected connections.
pub struct FlowTable {
    flows: HashMap<MapData, FlowKey, Origin>,
}

/// What the workload of an accepted connection dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// The address and port that it passed to `connect()`.
    pub addr: SocketAddr,
    /// The Connector that the kernel matched; 0 when there are several at the address.
    pub connector: u32,
}

impl FlowTable {
    pub(super) fn new(flows: HashMap<MapData, FlowKey, Origin>) -> Self {
        Self { flows }
    }

    /// Finds the flow of a connection that a workload's listener at port `via_port` accepted from
    /// `peer`. `None`: the listener was dialled directly.
    pub fn find(&self, workload: u64, peer: SocketAddr, via_port: u16) -> Option<Dialled> {
        let key = FlowKey {
            workload,
            addr: map_address(peer.ip()),
            port: peer.port(),
            via_port,
            pad: [0; 2],
        };
        let origin = self.flows.get(&key, 0).ok()?;
        Some(Dialled {
            addr: SocketAddr::new(ip_address(origin.addr), origin.port),
            connector: origin.connector,
        })
    }
}
