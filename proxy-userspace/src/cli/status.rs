use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::agent::{self, Status as AgentStatus};

/// Asks the agent of this node how it is.
///
/// Ends with 0 when it is live, or ready with --ready; else with 1.
#[derive(Args)]
pub(super) struct Status {
    /// Prints nothing; whether the agent's main loop turns.
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Prints nothing; whether the pods that it found when it started are served.
    #[arg(long)]
    ready: bool,
    /// Prints JSON.
    #[arg(long, conflicts_with_all = ["live", "ready"])]
    json: bool,
    #[command(flatten)]
    run_directory: super::RunDirectory,
}

impl Status {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let status = match runtime.block_on(agent::ask(&self.run_directory.run_directory)) {
            Ok(status) => status,
            Err(error) => {
                eprintln!("postern: {error}");
                return Ok(ExitCode::FAILURE);
            }
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else if !self.live && !self.ready {
            print(&status);
        }
        let good = status.live && (status.ready || !self.ready);
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn print(status: &AgentStatus) {
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    let version = status.state_version.map(|version| version.to_string());
    for (name, value) in [
        ("version", status.version.clone()),
        ("node", status.node.clone()),
        ("live", yes_or_no(status.live).into()),
        ("ready", yes_or_no(status.ready).into()),
        (
            "controller",
            if status.connected {
                "connected"
            } else {
                "away"
            }
            .into(),
        ),
        ("state", version.unwrap_or_else(|| "none yet".into())),
        ("connectors", status.connectors.to_string()),
        ("undecided", status.undecided.to_string()),
        ("unsigned hosts", status.unsigned_hosts.to_string()),
        ("pods served", status.pods.to_string()),
        ("pods waiting", status.waiting_pods.to_string()),
        ("open connections", status.connections.to_string()),
        ("requests with credential", status.injected.to_string()),
    ] {
        println!("{name:<26}{value}");
    }
    for (name, counters) in [("proxy", &status.proxy), ("kernel", &status.kernel)] {
        let counted = counters.iter().filter(|(_, count)| **count > 0);
        let counted: Vec<_> = counted
            .map(|(name, count)| format!("{name}={count}"))
            .collect();
        println!("{name:<26}{}", counted.join(" "));
    }
    for pod in &status.untrusting {
        println!(
            "{:<26}{} for {}: {} connections",
            "without trust in Postern", pod.workload, pod.host, pod.connections
        );
    }
}
