//! The kernel programs and the maps behind them, with real sockets. These tests also run on
//! other kernels, in a machine that has little more than they need.

mod decisions;
mod dns;
mod features;
mod name_server;
mod take_over;
