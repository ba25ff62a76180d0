//! What is added to a request.

mod inject;
pub mod oci;

pub use inject::{Injector, Plan};
