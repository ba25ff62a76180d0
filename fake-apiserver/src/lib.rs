//! A small Kubernetes API server in memory, for the tests and the demo.
//!
//! It speaks the real protocol on real sockets, so `kubectl`, the `kube` client and our own
//! controller run against it unchanged. What it does, it does as the API conventions say:
//! one resourceVersion for all objects, conflicts, watches with bookmarks and 410, field
//! managers and server-side apply, status subresources, finalizers, dependents, schemas of
//! CustomResourceDefinitions, RBAC. What it does not do, it refuses with a `Status`.
//!
//! There are no controllers, no scheduler and no kubelet behind it, no admission webhooks
//! and no CEL rules. A deleted Deployment takes its dependents with it, but creates none.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let server = fake_apiserver::Server::start(fake_apiserver::Options::default()).await?;
//! let output = server.kubectl().args(["get", "namespaces"]).output()?;
//! server.handle().compact();
//! # Ok(())
//! # }
//! ```

mod api;
mod auth;
mod builtin;
mod cluster;
mod crd;
mod discovery;
mod error;
mod event;
mod faults;
mod fields;
mod generate;
mod handle;
mod http;
mod journal;
mod jsonpath;
mod kubeconfig;
mod managed;
mod openapi;
mod patch;
mod present;
mod rbac;
mod resource;
mod reviews;
mod schema;
mod selector;
mod server;
mod shape;
mod store;
mod table;
mod tls;
mod watch;

pub use auth::{API_AUDIENCE, Identity, Token};
pub use error::{ApiError, FieldError};
pub use faults::{Fault, Matching};
pub use handle::Handle;
pub use journal::Entry;
pub use server::{Options, Server};
