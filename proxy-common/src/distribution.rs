//! Messages between controller and agent, generated from `proto/distribution.proto`.
//!
//! They hold credentials, so none of them has a `Debug` that would show one, and those that
//! are one are wiped when they are dropped (take a field out with [`std::mem::take`]).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("postern.distribution.v1alpha1");

use zeroize::Zeroize as _;

impl Drop for Basic {
    fn drop(&mut self) {
        self.username.zeroize();
        self.password.zeroize();
    }
}

impl Drop for Bearer {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl Drop for IdentityToken {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}
