//! Postern's processes, started as the manifests start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::command::{run_ok, stdout_of};
use testkit::spawn;

use crate::wait;
use crate::world::World;

/// A process of Postern; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &std::process::Command, log: PathBuf) -> Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone().context("cannot write a log")?;
        let child = spawn(command, |command| {
            command.stdin(std::process::Stdio::null());
            command.stdout(file).stderr(errors);
        })?;
        Ok(Self { child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote, and those before it under the same name.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where that is.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.child.try_wait().context("cannot look at a process")
    }

    /// Kills it without a warning.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill a process")?;
        self.child.wait().context("cannot wait for a process")?;
        Ok(())
    }

    /// Asks it to end, and waits for that.
    pub async fn terminate(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).context("cannot signal a process")?;
        let name = self.log.clone();
        let status = wait::until(&format!("the end of {}", name.display()), || {
            let ended = self.child.try_wait().context("cannot look at a process");
            async move { ended }
        })
        .await?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", name.display(), self.log());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl World {
    /// Starts the controller and waits until it is ready.
    pub async fn start_controller(&mut self) -> Result<()> {
        let mut command = self.node.command(&self.programs.controller);
        command
            .args([
                "--namespace=postern-system",
                "--listen=0.0.0.0:8443",
                "--health-listen=127.0.0.1:8080",
                "--log=debug",
            ])
            .env("KUBECONFIG", self.controller_kubeconfig());
        self.controller = Some(Process::start(&command, self.files.join("controller.log"))?);
        let ready = wait::until_true("a ready controller", || {
            let mut ask = self.node.command("curl");
            ask.args(["--silent", "--fail", "http://127.0.0.1:8080/readyz"]);
            Ok(run_ok(ask).is_ok())
        })
        .await;
        ready.with_context(|| self.log_of_controller())?;
        // What the kubelet would do with the agent's volume.
        self.write_controller_ca().await
    }

    /// Starts an agent and waits until it is ready. One that runs already goes on until the
    /// new one has taken over, and is stopped then.
    pub async fn start_agent(&mut self) -> Result<()> {
        let process = self.spawn_agent(&self.agent_token.clone(), self.node.name())?;
        let before = self.agent.replace(process);
        let ready = self.agent_is_ready().await;
        ready.with_context(|| self.log_of_agent())?;
        match before {
            Some(before) => before.terminate().await,
            None => Ok(()),
        }
    }

    /// Starts an agent with a token, as a node.
    pub fn spawn_agent(&self, token: &str, node: &str) -> Result<Process> {
        let token = self.files.write(format!("token-{}", token.len()), token)?;
        self.agents.set(self.agents.get() + 1);
        let run = self.files.join(format!("run-{}", self.agents.get()));
        let mut command = self.node.command(&self.programs.postern);
        command
            .args(["agent", "--log=debug", "--take-over", "--controller"])
            .arg("postern-controller.postern-system.svc:8443")
            .args(["--node", node])
            .arg("--controller-ca")
            .arg(self.files.join("controller-ca.crt"))
            .arg("--token-file")
            .arg(token)
            .arg("--cgroup-root")
            .arg(self.node.cgroup())
            .arg("--pins")
            .arg(self.pins())
            .arg("--run-dir")
            .arg(run);
        Process::start(&command, self.files.join("agent.log"))
    }

    /// What `postern status --json` says of the newest agent.
    pub fn agent_status(&self) -> Result<serde_json::Value> {
        let mut command = self.node.command(&self.programs.postern);
        command
            .args(["status", "--json", "--run-dir"])
            .arg(self.files.join(format!("run-{}", self.agents.get())));
        let text = stdout_of(command)?;
        serde_json::from_str(&text).context("postern status wrote no JSON")
    }

    /// Waits until the newest agent is ready.
    pub async fn agent_is_ready(&self) -> Result<()> {
        wait::until_true("a ready agent", || {
            let status = self.agent_status();
            Ok(status.is_ok_and(|status| status["ready"] == true))
        })
        .await
    }

    /// Runs `postern unload` for this cluster's node.
    pub fn unload(&self) -> Result<String> {
        let mut command = self.node.command(&self.programs.postern);
        command.args(["unload", "--pins"]).arg(self.pins());
        stdout_of(command)
    }

    fn log_of_controller(&self) -> String {
        let log = self.controller.as_ref().map(Process::log);
        format!("the controller wrote:\n{}", log.unwrap_or_default())
    }

    fn log_of_agent(&self) -> String {
        let log = self.agent.as_ref().map(Process::log);
        format!("the agent wrote:\n{}", log.unwrap_or_default())
    }
}
