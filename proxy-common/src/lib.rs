//! The contracts that both sides of a boundary in Postern agree on.
//!
//! [`maps`] is shared by the kernel programs and the agent and builds without `std`.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "std")]
pub mod api;
#[cfg(feature = "distribution")]
pub mod distribution;
pub mod maps;
