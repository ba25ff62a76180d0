//! Pods on a node, with a real container runtime. Needs root, and fails without.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "node/cleanup.rs"]
mod cleanup;
#[path = "node/images.rs"]
mod images;
#[path = "node/pods.rs"]
mod pods;
#[path = "node/support.rs"]
mod support;
