//! Real servers and namespaces for the tests and the demo.
//!
//! Everything here starts a program that users run as well (a registry, nginx, git) on a
//! free port, waits until it serves, and stops it when the value is dropped. Nothing
//! outlives the process that started it, even when that is killed.
//!
//! Servers run on the machine's loopback, or inside a [`Sandbox`]: a network of its own
//! with names and addresses of its own.

pub mod base64;
pub mod command;
pub mod git;
pub mod leaks;
pub mod maps;
pub mod net;
pub mod oci;
pub mod proc;
pub mod report;

mod nginx;
mod pki;
mod registry;
mod sandbox;
mod server;
mod spawner;
mod tempdir;
mod token;
mod users;

pub use command::{run_ok, run_within};
pub use net::{free_port, wait_port};
pub use nginx::{Content, Nginx, Request, Site, SiteAuth};
pub use pki::{Certificate, Pki};
pub use registry::{Registry, RegistryAuth, RegistryOptions};
pub use sandbox::{Sandbox, SandboxOptions};
pub use server::Server;
pub use spawner::spawn;
pub use tempdir::TempDir;
pub use token::{TokenOptions, TokenRequest, TokenServer};
pub use users::htpasswd;
