//! What is added to a request.

pub mod oci;
mod presigned;

pub use presigned::is_presigned;
