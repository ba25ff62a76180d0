//! The node side of Postern: what happens to a connection between the `connect()` of a
//! workload and the upstream of a Connector.
//!
//! The modules follow that path from top to bottom; none depends on one above it, except on
//! [`state`], which every room may use. [`probe`] stands beside that path: it checks whether
//! a Connector would work.

pub mod credential;
pub mod probe;
pub mod state;
