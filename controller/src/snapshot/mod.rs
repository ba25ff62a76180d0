//! What nodes are sent: the whole state once, and what changed afterwards.
//!
//! The [`Catalog`] holds the Connectors of the cluster in the form in which every node gets
//! them. A [`Node`] has the pods of one node, and works out its [`NodeState`]: the Connectors
//! that any of them is granted, and nothing else. A [`Feed`] is one stream to an agent; it
//! turns states into messages.

mod budget;
mod catalog;
mod fingerprint;
mod ids;
mod node;
#[cfg(test)]
mod tests;
mod wire;

pub use catalog::{Catalog, Entry, SecretVersion};
pub use fingerprint::NoRandomness;
pub use node::{Feed, Node, NodeState, host_size};
