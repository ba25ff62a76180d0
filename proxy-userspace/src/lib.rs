//! The node side of Postern: what happens to a connection between the `connect()` of a
//! workload and the upstream of a Connector.
//!
//! The modules follow that path from top to bottom. A module uses those below it, never one
//! above, except for [`state`], [`telemetry`], [`limits`], [`memory`] and [`special`], which every
//! room may use.
//! [`probe`] stands beside the path: it checks whether a Connector would work.

pub mod agent;
pub mod cli;
pub mod standalone;

pub mod node;

pub mod datapath;
pub mod workload;

pub mod admission;
pub mod listen;
pub mod worker;

pub mod detect;
pub mod forward;
pub mod guard;
pub mod intercept;

pub mod pipeline;

pub mod fetch;
pub mod proxy;

pub mod gate;

pub mod credential;

pub mod upstream;

pub mod tls;

pub mod limits;
pub mod memory;
pub mod probe;
pub mod process;
pub mod special;
pub mod telemetry;

/// What the node knows: the Connectors in force, with their credentials.
pub use connectors as state;
