//! The controller against an API server that enforces the roles of the manifests.

mod binary;
mod credentials;
mod disturbances;
mod grants;
mod objects;
mod world;
