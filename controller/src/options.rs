//! The command line.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use clap::Parser;

use crate::cluster::Limits;

/// Reconciles Connectors and distributes credentials to the nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "postern-controller", version)]
pub struct Options {
    /// Namespace of the controller itself.
    #[arg(long, env = "POSTERN_NAMESPACE", default_value = "postern-system")]
    pub namespace: String,
    /// Where agents are served.
    #[arg(long, env = "POSTERN_LISTEN", default_value_t = all_interfaces(8443))]
    pub listen: SocketAddr,
    /// Where `/healthz` and `/readyz` are answered.
    #[arg(long, env = "POSTERN_HEALTH_LISTEN", default_value_t = all_interfaces(8080))]
    pub health_listen: SocketAddr,
    /// Requests to the API server per second, in the long run. Watches are not counted.
    #[arg(long, env = "POSTERN_KUBE_API_QPS", default_value = "50")]
    pub kube_api_qps: NonZeroU32,
    /// Requests to the API server at once.
    #[arg(long, env = "POSTERN_KUBE_API_BURST", default_value = "100")]
    pub kube_api_burst: NonZeroU32,
    /// What to log, to standard error: a level, or a filter such as
    /// `postern_controller::cluster=debug`.
    #[arg(long, env = "POSTERN_LOG", default_value = "info")]
    pub log: String,
}

impl Options {
    /// How much the API server is asked.
    pub fn limits(&self) -> Limits {
        Limits {
            qps: self.kube_api_qps,
            burst: self.kube_api_burst,
        }
    }
}

fn all_interfaces(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
