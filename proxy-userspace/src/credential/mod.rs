//! What is added to a request.

pub mod oci;
