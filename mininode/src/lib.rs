//! A Kubernetes node with real pods, for the tests and the demo.
//!
//! A [`Node`] is a machine of its own on this one: a network namespace (a testkit
//! [`Sandbox`](testkit::Sandbox)) with Debian's containerd, a bridge for its pods and a cgroup
//! below which everything happens. A [`Kubelet`] runs the pods that an API server assigns to it.
//! Whatever the pods shall reach (a registry, an agent, the API server) is started inside.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use fake_apiserver::{Options, Server};
//!
//! let node = mininode::Node::start(mininode::Options::default()).await?;
//! let server = node.inside(Server::start(Options::default())).await?;
//! let kubelet = mininode::Kubelet::start(&node, &server.kubeconfig(None)).await?;
//! // Pods with `spec.nodeName: node-1` run from here on.
//! # Ok(())
//! # }
//! ```
//!
//! All processes of a node are in a PID namespace whose first process dies with this one, so
//! that nothing survives even a killed test. Needs root.

mod cgroup;
mod containerd;
mod cri;
mod image;
mod inside;
mod kubelet;
mod layout;
mod node;

pub use cgroup::CgroupLayout;
pub use image::{BUSYBOX, CLIENT, Image};
pub use kubelet::Kubelet;
pub use node::{Node, Options};
