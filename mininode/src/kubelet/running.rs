//! What there is of a pod in the container runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;

use super::{Host, files, security, spec};
use crate::{cgroup, cri};

/// A sandbox with its containers.
pub(super) struct Running {
    host: Arc<Host>,
    sandbox: String,
    config: cri::PodSandboxConfig,
    addresses: Vec<String>,
    volumes: BTreeMap<String, PathBuf>,
    /// The newest instance of each container, in the order of the pod.
    containers: Vec<String>,
}

impl Running {
    /// Cgroup, volumes and sandbox, in the kubelet's order.
    pub(super) async fn sandbox(host: Arc<Host>, pod: &Pod) -> Result<Self> {
        let spec = pod.spec.clone().unwrap_or_default();
        cgroup::create(&host.cgroup.join(spec::cgroup(&host, pod, &spec)))?;
        let volumes = files::volumes(&host, pod, &spec).await?;
        for container in &spec.containers {
            let folder = spec::log_folder(&host, pod).join(&container.name);
            fs::create_dir_all(folder).context("cannot make a folder for logs")?;
        }
        let config = spec::sandbox(&host, pod, &spec);
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let sandbox = host.cri.run_pod_sandbox(request).await?.pod_sandbox_id;
        Ok(Self {
            host,
            sandbox,
            config,
            addresses: Vec::new(),
            volumes,
            containers: Vec::new(),
        })
    }

    /// Starts all containers, which need to know the pod's address.
    pub(super) async fn start(&mut self, pod: &Pod) -> Result<()> {
        let spec = pod.spec.clone().unwrap_or_default();
        self.addresses = if security::is_host_network(&spec) {
            vec![self.host.address.to_string()]
        } else {
            self.find_addresses().await?
        };
        let first = self.addresses.first().context("the pod has no address")?;
        files::write_hosts(&self.host, pod, &spec, first)?;
        for index in 0..spec.containers.len() {
            self.start_container(pod, index, 0).await?;
        }
        Ok(())
    }

    async fn find_addresses(&self) -> Result<Vec<String>> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: self.sandbox.clone(),
        };
        let status = self.host.cri.pod_sandbox_status(request).await?.status;
        let network = status.unwrap_or_default().network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        let all = [network.ip].into_iter().chain(more);
        Ok(all.filter(|ip| !ip.is_empty()).collect())
    }

    /// Starts an instance of the container with this index.
    pub(super) async fn start_container(
        &mut self,
        pod: &Pod,
        index: usize,
        attempt: u32,
    ) -> Result<()> {
        let spec = pod.spec.clone().unwrap_or_default();
        let container = &spec.containers[index];
        let config = spec::container(&self.host, pod, container, attempt, &self.volumes)?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let context = || format!("container {}", container.name);
        let created = self.host.cri.create_container(request).await;
        let container_id = created.with_context(context)?.container_id;
        if let Some(place) = self.containers.get_mut(index) {
            place.clone_from(&container_id);
        } else {
            self.containers.push(container_id.clone());
        }
        let request = cri::StartContainerRequest { container_id };
        let started = self.host.cri.start_container(request).await;
        started.with_context(context).map(drop)
    }

    /// The pod's addresses; none before it was started.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The state of all containers, in the order of the pod.
    pub(super) async fn containers(&self) -> Result<Vec<cri::ContainerStatus>> {
        try_join_all(self.containers.iter().map(|id| async {
            let request = cri::ContainerStatusRequest {
                container_id: id.clone(),
            };
            let answer = self.host.cri.container_status(request).await?;
            Ok(answer.status.unwrap_or_default())
        }))
        .await
    }

    /// Asks all containers to end, and kills those that have not within `grace` seconds.
    pub(super) async fn stop_containers(&self, grace: i64) -> Result<()> {
        let stops = self.containers.iter().map(|id| {
            self.host.cri.stop_container(cri::StopContainerRequest {
                container_id: id.clone(),
                timeout: grace,
            })
        });
        try_join_all(stops).await.map(drop)
    }

    /// Kills what still runs, and takes the network away.
    pub(super) async fn stop(&self) -> Result<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: self.sandbox.clone(),
        };
        self.host.cri.stop_pod_sandbox(request).await.map(drop)
    }

    /// Makes the runtime forget it.
    pub(super) async fn remove(&self) -> Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: self.sandbox.clone(),
        };
        self.host.cri.remove_pod_sandbox(request).await.map(drop)
    }
}
