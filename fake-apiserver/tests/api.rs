//! The rules of the Kubernetes API, asked of the server over real sockets: by hand, through
//! kubectl and through the kube client. Each test's name says the rule.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "api/apply.rs"]
mod apply;
#[path = "api/conventions.rs"]
mod conventions;
#[path = "api/kube_client.rs"]
mod kube_client;
#[path = "api/kubectl.rs"]
mod kubectl;
#[path = "api/reviews.rs"]
mod reviews;
#[path = "api/support.rs"]
mod support;
#[path = "api/watches.rs"]
mod watches;
