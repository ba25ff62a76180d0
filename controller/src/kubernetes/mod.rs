//! The side of the controller that faces the API server: its objects in our terms, and the
//! requests that carry out what was decided.

mod objects;
mod requests;
#[cfg(test)]
mod tests;
mod watched;

pub use objects::{class, connector, pod, secret};
pub use requests::{FIELD_MANAGER, FetchError, ObjectVersion, ask, fetch_secret, write_status};
pub(crate) use requests::{PodEvent, write_event};
pub use watched::WatchedConnector;
