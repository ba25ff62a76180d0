//! The cluster side of Postern.
//!
//! [`reconcile`] says what the conditions of a Connector should be, and [`status`] whether
//! they have to be written. [`grants`] says which pods may use which Connectors, and
//! [`snapshot`] turns all of it into the messages that nodes are sent. [`model`] holds the
//! objects and works out what follows from a change of one of them. None of these does input
//! or output, reads a clock, or waits.
//!
//! [`kubernetes`] faces the API server: its objects in our terms, and single requests.
//! [`cluster`] watches it, feeds the model, and carries out what follows. [`nodes`] hands
//! what was worked out to the streams of the agents, which [`distribution`] serves under
//! certificates of the [`authority`]. [`health`] answers the kubelet, and [`run`] puts all of
//! it together.

pub mod authority;
mod bucket;
pub mod cluster;
mod controller;
pub mod distribution;
mod events;
pub mod grants;
pub mod health;
pub mod kubernetes;
pub mod log;
pub mod model;
pub mod nodes;
mod options;
mod pause;
pub mod reconcile;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod testing;

pub use controller::run;
pub use options::Options;
