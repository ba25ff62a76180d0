//! The life of one pod on the node, from its cgroup to its end.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Error, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::running::Running;
use super::{Host, spec, status};
use crate::{cgroup, cri};

/// How often containers are looked at, and what failed is tried again.
const POLL: Duration = Duration::from_millis(100);

/// Becomes the seconds that are left, once the pod has to end.
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

/// Waits until the pod has to end.
async fn wait(ending: &mut Ending) {
    // When nobody is left to say so, this task is about to be aborted.
    drop(ending.wait_for(Option::is_some).await);
}

struct Life {
    host: Arc<Host>,
    pod: Pod,
    spec: PodSpec,
    running: Option<Running>,
    reported: Option<PodStatus>,
}

impl Life {
    /// Starts the pod and looks after it until it has to end.
    async fn run(&mut self, ending: &mut Ending) -> Result<()> {
        spec::check(&self.spec)?;
        let sandbox = Running::sandbox(Arc::clone(&self.host), &self.pod).await?;
        // What comes is cleaned up together with it, also if it fails.
        self.running.insert(sandbox).start(&self.pod).await?;
        if self.watch(ending).await? {
            // As the kubelet does: what is over keeps neither network nor cgroup.
            self.stop().await?;
            wait(ending).await;
        }
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
                if exited
                    && status::restarts(&self.spec, container.exit_code)
                    && let Some(running) = &mut self.running
                {
                    let attempt = container.metadata.as_ref().map_or(0, |known| known.attempt);
                    running
                        .start_container(&self.pod, index, attempt + 1)
                        .await?;
                }
            }
            tokio::select! {
                () = wait(ending) => return Ok(false),
                () = sleep(POLL) => {}
            }
        }
    }

    async fn containers(&self) -> Result<Vec<cri::ContainerStatus>> {
        match &self.running {
            Some(running) => running.containers().await,
            None => Ok(Vec::new()),
        }
    }

    /// Ends the containers within their grace, takes everything away, and says so.
    async fn end(&mut self, ending: &mut Ending) {
        let mut grace = ending.borrow_and_update().unwrap_or(0);
        while let Some(running) = &self.running {
            // A new deletion may shorten the grace while we wait.
            tokio::select! {
                result = running.stop_containers(grace) => match result {
                    Ok(()) => break,
                    Err(_) => sleep(POLL).await,
                },
                Ok(()) = ending.changed() => grace = ending.borrow_and_update().unwrap_or(0),
            }
        }
        if self.running.is_some()
            && let Ok(containers) = self.containers().await
        {
            self.report_containers(&containers, true).await;
        }
        self.leave().await;
        self.confirm().await;
    }

    /// Takes the pod's network away, and its cgroup.
    async fn stop(&self) -> Result<()> {
        if let Some(running) = &self.running {
            running.stop().await?;
        }
        let path = spec::cgroup(&self.host, &self.pod, &self.spec);
        let path = self.host.cgroup.join(path);
        spawn_blocking(move || cgroup::remove(&path))
            .await
            .context("a thread that removes a cgroup ended")?
    }

    /// Takes everything away; what fails is tried again.
    async fn leave(&mut self) {
        while self.stop().await.is_err() {
            sleep(POLL).await;
        }
        while let Some(running) = &self.running {
            match running.remove().await {
                Ok(()) => self.running = None,
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
        let addresses = self.running.as_ref().map_or(&[][..], Running::addresses);
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
