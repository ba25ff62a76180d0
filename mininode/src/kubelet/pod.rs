//! The life of one pod on the node, from its cgroup to its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Error, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Host, files, spec, status};
use crate::{cgroup, cri};

/// How often containers are looked at, and a request is tried again.
const POLL: Duration = Duration::from_millis(100);

type Ending = watch::Receiver<Option<i64>>;

/// Runs a pod until it has to end, and cleans up behind it.
pub(super) async fn live(host: Arc<Host>, pod: Pod, mut ending: Ending) {
    let mut life = Life {
        spec: pod.spec.clone().unwrap_or_default(),
        reported: None,
        running: None,
        host,
        pod,
    };
    if ending.borrow().is_none()
        && let Err(error) = life.run(&mut ending).await
    {
        let failed = status::failed(&life.host, &format!("{error:#}"));
        life.report(failed).await;
        life.leave().await;
        wait(&mut ending).await;
    }
    life.end(&mut ending).await;
}

/// Waits until the pod has to end; at the latest when nobody is left to say so.
async fn wait(ending: &mut Ending) {
    drop(ending.wait_for(Option::is_some).await);
}

struct Life {
    host: Arc<Host>,
    pod: Pod,
    spec: PodSpec,
    running: Option<Running>,
    reported: Option<PodStatus>,
}

/// What there is in the container runtime.
struct Running {
    sandbox: String,
    config: cri::PodSandboxConfig,
    addresses: Vec<String>,
    volumes: BTreeMap<String, PathBuf>,
    /// The newest instance of each container, in the order of the pod.
    containers: Vec<String>,
}

impl Life {
    /// Starts the pod and looks after it until it has to end.
    async fn run(&mut self, ending: &mut Ending) -> Result<()> {
        spec::check(&self.spec)?;
        self.start().await?;
        if self.watch(ending).await? {
            // As the kubelet does: what is over keeps neither network nor cgroup.
            self.stop_sandbox().await?;
            wait(ending).await;
        }
        Ok(())
    }

    /// Cgroup, volumes, sandbox and containers, in the kubelet's order.
    async fn start(&mut self) -> Result<()> {
        let (host, pod, spec) = (&self.host, &self.pod, &self.spec);
        cgroup::create(&host.cgroup.join(spec::cgroup(host, pod, spec)))?;
        let volumes = files::volumes(host, pod, spec).await?;
        for container in &spec.containers {
            let folder = spec::log_folder(host, pod).join(&container.name);
            fs::create_dir_all(folder).context("cannot make a folder for logs")?;
        }
        let config = spec::sandbox(host, pod, spec);
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let sandbox = host.cri.run_pod_sandbox(request).await?.pod_sandbox_id;
        self.running = Some(Running {
            sandbox: sandbox.clone(),
            config,
            addresses: Vec::new(),
            volumes,
            containers: Vec::new(),
        });
        let addresses = self.addresses(sandbox).await?;
        let first = addresses.first().map_or("127.0.0.1", String::as_str);
        files::write_hosts(&self.host, &self.pod, &self.spec, first)?;
        if let Some(running) = &mut self.running {
            running.addresses = addresses;
        }
        for index in 0..self.spec.containers.len() {
            self.start_container(index, 0).await?;
        }
        Ok(())
    }

    async fn addresses(&self, sandbox: String) -> Result<Vec<String>> {
        if spec::is_host_network(&self.spec) {
            return Ok(vec![self.host.address.to_owned()]);
        }
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox,
        };
        let status = self.host.cri.pod_sandbox_status(request).await?.status;
        let network = status.unwrap_or_default().network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        Ok([network.ip].into_iter().chain(more).collect())
    }

    /// Starts an instance of the container with this index.
    async fn start_container(&mut self, index: usize, attempt: u32) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let container = &self.spec.containers[index];
        let config = spec::container(
            &self.host,
            &self.pod,
            &self.spec,
            container,
            attempt,
            &running.volumes,
        )?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: running.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(running.config.clone()),
        };
        let context = || format!("container {}", container.name);
        let created = self.host.cri.create_container(request).await;
        let container_id = created.with_context(context)?.container_id;
        if let Some(place) = running.containers.get_mut(index) {
            place.clone_from(&container_id);
        } else {
            running.containers.push(container_id.clone());
        }
        let request = cri::StartContainerRequest { container_id };
        self.host
            .cri
            .start_container(request)
            .await
            .with_context(context)?;
        Ok(())
    }

    /// Reports what the containers do and restarts them, until all are over (then true) or the
    /// pod has to end.
    async fn watch(&mut self, ending: &mut Ending) -> Result<bool> {
        loop {
            let containers = self.containers().await?;
            if self.report_containers(&containers, false).await {
                return Ok(true);
            }
            for (index, container) in containers.iter().enumerate() {
                let exited = container.state() == cri::ContainerState::ContainerExited;
                if exited && status::restarts(&self.spec, container.exit_code) {
                    let attempt = container.metadata.as_ref().map_or(0, |known| known.attempt);
                    self.start_container(index, attempt + 1).await?;
                }
            }
            tokio::select! {
                () = wait(ending) => return Ok(false),
                () = sleep(POLL) => {}
            }
        }
    }

    async fn containers(&self) -> Result<Vec<cri::ContainerStatus>> {
        let ids = self.running.iter().flat_map(|running| &running.containers);
        try_join_all(ids.map(|id| async {
            let request = cri::ContainerStatusRequest {
                container_id: id.clone(),
            };
            let answer = self.host.cri.container_status(request).await?;
            Ok(answer.status.unwrap_or_default())
        }))
        .await
    }

    /// Ends the containers within their grace, takes everything away, and says so.
    async fn end(&mut self, ending: &mut Ending) {
        let mut grace = ending.borrow_and_update().unwrap_or(0);
        while self.running.is_some() {
            // A new deletion may shorten the grace while we wait.
            tokio::select! {
                result = self.stop_containers(grace) => match result {
                    Ok(()) => break,
                    Err(_) => sleep(POLL).await,
                },
                Ok(()) = ending.changed() => grace = ending.borrow_and_update().unwrap_or(0),
            }
        }
        if let Ok(containers) = self.containers().await
            && self.running.is_some()
        {
            self.report_containers(&containers, true).await;
        }
        self.leave().await;
        self.confirm().await;
    }

    async fn stop_containers(&self, grace: i64) -> Result<()> {
        let ids = self.running.iter().flat_map(|running| &running.containers);
        let stops = ids.map(|id| {
            self.host.cri.stop_container(cri::StopContainerRequest {
                container_id: id.clone(),
                timeout: grace,
            })
        });
        try_join_all(stops).await.map(drop)
    }

    /// Takes the pod's network away, and its cgroup.
    async fn stop_sandbox(&self) -> Result<()> {
        if let Some(running) = &self.running {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: running.sandbox.clone(),
            };
            self.host.cri.stop_pod_sandbox(request).await?;
        }
        let path = spec::cgroup(&self.host, &self.pod, &self.spec);
        let path = self.host.cgroup.join(path);
        spawn_blocking(move || cgroup::remove(&path))
            .await
            .context("a thread that removes a cgroup ended")?
    }

    /// Takes everything away; what fails is tried again.
    async fn leave(&mut self) {
        while self.stop_sandbox().await.is_err() {
            sleep(POLL).await;
        }
        while let Some(running) = &self.running {
            let request = cri::RemovePodSandboxRequest {
                pod_sandbox_id: running.sandbox.clone(),
            };
            match self.host.cri.remove_pod_sandbox(request).await {
                Ok(_) => self.running = None,
                Err(_) => sleep(POLL).await,
            }
        }
        let uid = self.pod.uid().unwrap_or_default();
        // They go with the node at the latest.
        fs::remove_dir_all(self.host.pod_folder(&uid)).ok();
        fs::remove_dir_all(spec::log_folder(&self.host, &self.pod)).ok();
    }

    /// Tells the API server that the pod has ended: it goes, unless its name has a new owner.
    async fn confirm(&self) {
        let pods = self.host.pods(&self.pod.namespace().unwrap_or_default());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: self.pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default().grace_period(0)
        };
        while let Err(error) = pods.delete(&self.pod.name_any(), &parameters).await {
            if is_refused(&error) {
                return;
            }
            sleep(POLL).await;
        }
    }

    /// Reports the containers; true if the pod is over.
    async fn report_containers(
        &mut self,
        containers: &[cri::ContainerStatus],
        ending: bool,
    ) -> bool {
        let addresses = self
            .running
            .as_ref()
            .map_or(&[][..], |running| &running.addresses);
        let status = status::of(&self.host, &self.spec, addresses, containers, ending);
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        self.report(status).await;
        over
    }

    /// Writes the pod's status if it changed, as soon as the API server takes it.
    async fn report(&mut self, status: PodStatus) {
        if self.reported.as_ref() == Some(&status) {
            return;
        }
        let pods = self.host.pods(&self.pod.namespace().unwrap_or_default());
        let name = self.pod.name_any();
        // The uid makes it a conflict if the name has a new owner.
        let patch = Patch::Merge(json!({"metadata": {"uid": self.pod.uid()}, "status": status}));
        let parameters = PatchParams::default();
        while let Err(error) = pods.patch_status(&name, &parameters, &patch).await {
            if is_refused(&error) {
                return;
            }
            sleep(POLL).await;
        }
        self.reported = Some(status);
    }
}

/// Whether it is no use to try again: the pod is gone, is another one, or is not ours.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}
