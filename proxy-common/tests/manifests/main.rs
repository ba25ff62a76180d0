//! The manifests in the repository and the API types say the same.

mod cluster;
mod files;
mod install;
mod objects;
mod schema;
