//! What is added to a request.

mod inject;
pub mod oci;
pub(crate) mod paths;
mod presigned;

pub use inject::{Injector, Plan};
pub use presigned::is_presigned;
