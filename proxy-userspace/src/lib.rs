//! The node side of Postern: what happens to a connection between the `connect()` of a
//! workload and the upstream of a Connector.
//!
//! The modules follow that path from top to bottom. None depends on one above it, except on
//! [`state`], [`telemetry`] and [`limits`], which every room may use.

pub mod cli;
pub mod standalone;

pub mod datapath;
pub mod workload;

pub mod listen;

pub mod detect;
pub mod forward;
pub mod intercept;
pub mod worker;

pub mod tls;

pub mod pipeline;

pub mod gate;

pub mod credential;

pub mod fetch;
pub mod upstream;

pub mod limits;
pub mod state;
pub mod telemetry;
