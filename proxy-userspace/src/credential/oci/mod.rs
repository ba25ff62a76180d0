//! Authentication against registries of the OCI distribution specification.

pub mod answer;
mod bounded;
mod cache;
mod challenge;
mod error;
mod fetch;
mod flight;
mod realm;
mod route;
mod token;

#[cfg(test)]
mod fake;

pub use challenge::Challenge;
pub use error::{Cause, OciError, Party};
pub use fetch::{Fetch, FetchError, MAX_ANSWER};
pub use realm::{RealmError, verify as verify_realm};
pub use route::{Route, UploadStep};
