//! The kernel programs and the maps behind them, with real sockets. These tests also run on
//! other kernels, in a machine that has little more than they need.

mod asked;
mod clients;
mod crash;
mod datagrams;
mod decisions;
mod dns;
mod explain;
mod features;
mod floods;
mod identity;
mod kinds;
mod links;
pub(crate) mod name_server;
mod packets;
mod pending;
mod probe;
mod rig;
mod take_over;
mod upgrades;
mod versions;
