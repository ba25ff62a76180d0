//! The agents' listener and the cluster's authority: real TLS and gRPC on one side, an API
//! server with the roles of the manifests on the other.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bundles;
mod callers;
mod events;
mod listener;
mod logs;
mod node;
mod root;
mod streams;
mod support;
