//! The cluster side of Postern.
//!
//! [`reconcile`] says what the conditions of a Connector should be, and [`status`] whether
//! they have to be written. [`grants`] says which pods may use which Connectors, and
//! [`snapshot`] turns all of it into the messages that nodes are sent. [`model`] holds the
//! objects and works out what follows from a change of one of them. None of
//! these does input or output, reads a clock, or waits; [`kubernetes`] faces the API server.
//! [`nodes`] hands what was worked out to the streams of the agents, which [`distribution`]
//! serves under certificates of the [`authority`].

pub mod authority;
pub mod distribution;
pub mod grants;
pub mod kubernetes;
pub mod model;
pub mod nodes;
mod pause;
pub mod reconcile;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod testing;
