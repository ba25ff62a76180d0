//! The kernel programs and the maps behind them, with real sockets. These tests also run on
//! other kernels, in a machine that has little more than they need.

mod datagrams;
mod decisions;
mod dns;
mod kinds;
pub(crate) mod name_server;
mod pending;
mod probe;
mod rig;
mod take_over;
