//! A whole cluster in miniature: an API server, Postern's controller and agent as the
//! processes that users run, a node with real pods, and a registry that wants credentials.
//!
//! Everything is on one node with a network of its own, so that several clusters at once do
//! not meet. [`World`] starts it; the tests of this crate, `cargo xtask demo --cluster` and
//! `cargo xtask bench chain` use it.

pub mod kubectl;
pub mod leaks;
pub mod manifests;
pub mod pods;
pub mod postern;
pub mod programs;
pub mod wait;
mod world;

pub use mininode::CgroupLayout;
pub use programs::Programs;
pub use world::{REGISTRY, REGISTRY_ADDRESS, SECOND, World};
