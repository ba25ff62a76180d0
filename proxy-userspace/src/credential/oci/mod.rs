//! Authentication against registries of the OCI distribution specification.
//!
//! The proxy owns authentication end to end: a workload sees neither a challenge nor a token.
//! What a request needs is read from its method and path ([`Route`]), what the registry
//! demands is learnt from our own `GET /v2/`, and the token is there before the first byte of
//! a body is read, because bodies cannot be repeated.
//!
//! ```text
//! Attempt::new ─► authorize ─► send ─┬─► answered ─► client
//!                     ▲              └─ 401, 403 ─► rejected ─┬─► answer::failure ─► client
//!                     └───────────────── Repeat ──────────────┘
//! ```

pub mod answer;
mod attempt;
mod bounded;
mod cache;
mod challenge;
mod demand;
mod error;
mod fetch;
mod flight;
mod realm;
mod registry;
mod rejection;
mod route;
mod token;
mod uploads;

#[cfg(test)]
mod fake;

pub use attempt::{Attempt, Rejection};
pub use challenge::Challenge;
pub use error::{Cause, OciError, Party};
pub use fetch::{Fetch, FetchError, MAX_ANSWER};
pub use realm::RealmError;
pub use registry::RegistryAuth;
pub use route::{Route, UploadStep};
