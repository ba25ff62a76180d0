//! Messages between controller and agent, generated from `proto/distribution.proto`.
//!
//! They hold credentials, so none of them has a `Debug` that would show one.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("postern.distribution.v1alpha1");
