//! The contracts that both sides of a boundary in Postern agree on.
//!
//! [`maps`], [`decision`] and [`dns`] are shared by the kernel programs and the agent and build without `std`.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "std")]
pub mod api;
pub mod decision;
#[cfg(feature = "distribution")]
pub mod distribution;
pub mod dns;
#[cfg(feature = "std")]
pub mod log;
pub mod maps;
