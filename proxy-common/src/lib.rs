//! The contracts both sides of a boundary agree on.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "std")]
pub mod api;
