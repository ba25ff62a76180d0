//! What is added to a request.

mod inject;
pub mod oci;
mod presigned;

pub use inject::{Injector, Plan};
pub use presigned::is_presigned;
