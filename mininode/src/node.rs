//! The machine on which pods run.

use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use testkit::{Sandbox, SandboxOptions, TempDir};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::cgroup::{CgroupLayout, NodeCgroup};
use crate::containerd::{Containerd, GATEWAY, SUBNET};
use crate::cri::{Container, ContainerState, Cri, ExecSyncRequest, ListContainersRequest};
use crate::cri::{ContainerFilter, ContainerStatusRequest};
use crate::image::Image;
use crate::inside::Inside;
use crate::kubelet::labels;

/// How long the runtime may take to be ready. Generous, because the machine may be busy.
const READY_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// What is special about a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, which pods have in `spec.nodeName`.
    pub name: String,
    /// How cgroups of pods are named.
    pub cgroups: CgroupLayout,
    /// Names and addresses of its network besides the pods' bridge. Pods reach the addresses,
    /// but have an `/etc/hosts` of their own.
    pub network: SandboxOptions,
}

impl Default for Options {
    /// `node-1` with cgroups as the driver `cgroupfs` names them.
    fn default() -> Self {
        Self {
            name: "node-1".to_owned(),
            cgroups: CgroupLayout::default(),
            network: SandboxOptions::default(),
        }
    }
}

/// A running node. Dropping it kills all pods and leaves nothing behind; that blocks until the
/// last process is gone.
#[derive(Debug)]
pub struct Node {
    // In the order in which they have to go.
    inside: Inside,
    containerd: Containerd,
    cgroup: NodeCgroup,
    sandbox: Arc<Sandbox>,
    options: Options,
    cri: Cri,
    files: TempDir,
}

impl Node {
    /// Starts one with the image [`BUSYBOX`](crate::BUSYBOX); needs root.
    pub async fn start(options: Options) -> Result<Self> {
        let node = spawn_blocking(move || Self::make(options))
            .await
            .context("a thread that starts a node ended")??;
        node.wait_until_ready().await?;
        node.import(Image::busybox()?).await?;
        Ok(node)
    }

    fn make(options: Options) -> Result<Self> {
        let files = TempDir::new("node")?;
        let sandbox = Arc::new(Sandbox::new(&options.network)?);
        let cgroup = NodeCgroup::create(options.cgroups)?;
        let containerd = Containerd::start(&files, &sandbox, &cgroup)?;
        let inside = Inside::start(Arc::clone(&sandbox))?;
        let entered = inside.handle().enter();
        let cri = Cri::new(containerd.socket())?;
        drop(entered);
        Ok(Self {
            inside,
            containerd,
            cgroup,
            sandbox,
            options,
            cri,
            files,
        })
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while !self.cri.is_ready().await {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.files.join("containerd.log"));
                bail!("containerd is not ready:\n{}", log.unwrap_or_default());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Brings an image to the node, under its name. Nothing else is ever pulled.
    pub async fn import(&self, image: Image) -> Result<()> {
        let reference = image.reference().to_owned();
        let socket = self.containerd.socket().to_owned();
        spawn_blocking(move || Containerd::import(&socket, &image.archive()?))
            .await
            .context("a thread that imports an image ended")?
            .with_context(|| format!("cannot import {reference}"))?;
        let deadline = Instant::now() + READY_LIMIT;
        while !self.cri.has_image(&reference).await? {
            if Instant::now() > deadline {
                bail!("the runtime does not notice the image {reference}");
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The name in `spec.nodeName` of its pods.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The node's root of the cgroup hierarchy, as this machine sees it: what `/sys/fs/cgroup`
    /// is on a real node.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The cgroup above all pods: `kubepods` or `kubepods.slice`. It exists before any pod.
    pub fn kubepods(&self) -> PathBuf {
        self.cgroup().join(self.options.cgroups.kubepods())
    }

    /// The network of the pods, in CIDR notation.
    pub fn subnet(&self) -> &'static str {
        SUBNET
    }

    /// The node's address, which pods reach.
    pub fn address(&self) -> Ipv4Addr {
        GATEWAY
    }

    /// The node's network and mounts, for servers of testkit.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// A command that runs on the node, like a host process; see [`Sandbox::command`]. It stays
    /// in the cgroup of the caller.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.sandbox.command(program)
    }

    /// Runs a future of this process in the node's network: sockets that it makes, and those of
    /// tasks that it spawns, listen and connect there. A server that is started so goes on when
    /// the future has ended, until the node is dropped.
    pub async fn inside<T, E>(
        &self,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<anyhow::Error>,
    {
        self.inside
            .run(async { future.await.map_err(Into::into) })
            .await
    }

    /// Runs a command in a running container of a pod.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        argv: &[&str],
    ) -> Result<Output> {
        let containers = self.containers(namespace, pod, container).await?;
        let running = containers
            .into_iter()
            .find(|found| found.state() == ContainerState::ContainerRunning)
            .with_context(|| format!("{container} of pod {namespace}/{pod} does not run"))?;
        let request = ExecSyncRequest {
            container_id: running.id,
            cmd: argv.iter().map(|&word| word.to_owned()).collect(),
            timeout: 0,
        };
        let answer = self.cri.exec_sync(request).await?;
        Ok(Output {
            // As `wait` reports an exit code.
            status: ExitStatus::from_raw((answer.exit_code & 0xff) << 8),
            stdout: answer.stdout,
            stderr: answer.stderr,
        })
    }

    /// What a container wrote so far, both streams. They are gone with the pod.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let containers = self.containers(namespace, pod, container).await?;
        let newest = containers
            .into_iter()
            .max_by_key(|found| found.metadata.as_ref().map(|metadata| metadata.attempt))
            .ok_or_else(|| anyhow!("pod {namespace}/{pod} has no container {container}"))?;
        let request = ContainerStatusRequest {
            container_id: newest.id,
        };
        let status = self.cri.container_status(request).await?.status;
        let path = status.unwrap_or_default().log_path;
        let log = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(log_text(&log))
    }

    async fn containers(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<Container>> {
        let request = ListContainersRequest {
            filter: Some(ContainerFilter {
                label_selector: labels(namespace, pod, Some(container)),
            }),
        };
        Ok(self.cri.list_containers(request).await?.containers)
    }

    pub(crate) fn cri(&self) -> &Cri {
        &self.cri
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn cgroup_name(&self) -> &str {
        self.cgroup.name()
    }

    pub(crate) fn files(&self) -> &TempDir {
        &self.files
    }
}

/// A line of a log is `<time> <stream> <F or P> <text>`; P says that the line goes on.
fn log_text(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let partial = fields.next() == Some("P");
        text.push_str(fields.next().unwrap_or_default());
        if !partial {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_log() {
        let log = "2026-01-01T00:00:00.1Z stdout F a b\n2026-01-01T00:00:00.2Z stderr F \n\
                   2026-01-01T00:00:00.3Z stdout P half\n2026-01-01T00:00:00.4Z stdout F  whole\n";
        assert_eq!(log_text(log), "a b\n\nhalf whole\n");
    }
}
