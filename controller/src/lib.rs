//! The cluster side of Postern, as far as it needs no cluster.
//!
//! [`reconcile`] says what the conditions of a Connector should be, and [`status`] whether
//! they have to be written. [`grants`] says which pods may use which Connectors, and
//! [`snapshot`] turns all of it into the messages that nodes are sent. [`model`] holds the
//! objects and works out what follows from a change of one of them. Nothing here does
//! input or output, reads a clock, or waits.

pub mod grants;
pub mod model;
pub mod reconcile;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod testing;
