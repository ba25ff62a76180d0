//! Authentication against registries of the OCI distribution specification.

mod challenge;
mod realm;
mod route;

pub use challenge::Challenge;
pub use realm::{RealmError, verify as verify_realm};
pub use route::{Route, UploadStep};
