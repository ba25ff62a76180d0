use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, builder::BoolishValueParser};

use crate::{
    agent::{self, Options},
    datapath::Succession,
};

/// Serves the pods of this node with what the controller sends.
///
/// Runs until it gets SIGTERM; when another agent has taken over, it serves what is still open
/// and waits for that. What it attached and pinned stays:
/// while no agent runs, connections to Connectors are refused, or go out directly where the
/// Connector says `failurePolicy: Open`. `postern unload` removes it.
#[derive(Args)]
pub(super) struct Agent {
    /// Name of this node in the cluster.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Where the controller is.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    controller: String,
    /// The cluster's API server. Pods that are not classified yet reach it, whatever Connectors
    /// name; Kubernetes tells each container where it is.
    #[arg(long, value_name = "HOST", env = "KUBERNETES_SERVICE_HOST")]
    api_server: Option<String>,
    /// The certificate authority that vouches for the controller, PEM.
    #[arg(long, value_name = "FILE", default_value = "/etc/postern/ca/ca.crt")]
    controller_ca: PathBuf,
    /// The token of this pod's service account for the controller; read again each time.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/postern/token"
    )]
    token_file: PathBuf,
    /// The cgroup v2 directory below which the kubelet has its own; the mount of the unified
    /// hierarchy unless given.
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Replaces an agent that runs on this node: it hands its pods over, and nobody notices.
    /// Otherwise this one does not start beside it.
    #[arg(long, env = "POSTERN_TAKE_OVER", value_parser = BoolishValueParser::new())]
    take_over: bool,
    #[command(flatten)]
    pins: super::Pins,
    #[command(flatten)]
    run_directory: super::RunDirectory,
    #[command(flatten)]
    tuning: super::tuning::TuningArgs,
}

impl Agent {
    pub(super) fn execute(self) -> Result<ExitCode> {
        agent::run(&Options {
            node: self.node,
            controller: self.controller,
            api_server: self.api_server,
            controller_ca: self.controller_ca,
            token_file: self.token_file,
            cgroup_root: self.cgroup_root,
            pins: self.pins.pins,
            succession: if self.take_over {
                Succession::TakeOver
            } else {
                Succession::Refuse
            },
            run_directory: self.run_directory.run_directory,
            tuning: self.tuning.into(),
        })
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("write a host and a port, as in postern-controller.postern-system.svc:8443")?;
    port.parse::<std::num::NonZeroU16>()
        .map_err(|_| format!("{port:?} is not a port from 1 to 65535"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return Err(format!(
            "{host:?} is not a host; an IPv6 address needs brackets"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn a_controller_is_a_host_and_a_port() {
        for good in ["a.svc:8443", "192.0.2.1:1", "[2001:db8::1]:8443"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["a.svc", ":8443", "a.svc:0", "a.svc:x", "2001:db8::1:8443"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
