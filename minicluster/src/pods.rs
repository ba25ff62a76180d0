//! Pods that use the registry like any program would.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wait;
use crate::world::{REGISTRY, REGISTRY_ADDRESS, SECOND, World};

/// Whom the programs of a pod trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Postern: the `ConfigMap` that the controller keeps in the pod's namespace.
    Postern,
    /// The registry's own authority.
    Registry,
}

/// How a pod ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether its program ended with 0.
    pub succeeded: bool,
    /// What it wrote.
    pub log: String,
}

impl World {
    /// Makes a pod that runs a shell script and never restarts.
    pub fn start_pod(&self, namespace: &str, name: &str, trust: Trust, script: &str) -> Result<()> {
        let pod = self.pod(namespace, name, trust, script);
        self.apply(&pod.to_string())
    }

    /// The same with a service account of its own.
    pub fn start_pod_as(
        &self,
        account: &str,
        namespace: &str,
        name: &str,
        trust: Trust,
        script: &str,
    ) -> Result<()> {
        let mut pod = self.pod(namespace, name, trust, script);
        pod["spec"]["serviceAccountName"] = account.into();
        self.apply(&pod.to_string())
    }

    /// Makes a pod, waits for its end and removes it.
    pub async fn run_pod(
        &self,
        namespace: &str,
        name: &str,
        trust: Trust,
        script: &str,
    ) -> Result<Outcome> {
        self.start_pod(namespace, name, trust, script)?;
        let outcome = self.outcome(namespace, name).await?;
        self.delete_pod(namespace, name).await?;
        Ok(outcome)
    }

    /// Waits for a pod's end.
    pub async fn outcome(&self, namespace: &str, name: &str) -> Result<Outcome> {
        let succeeded = wait::until(&format!("the end of pod {namespace}/{name}"), async || {
            let pod = self.handle().object("v1", "pods", namespace, name);
            let pod = pod.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            Ok(match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Some(true),
                Some("Failed") => Some(false),
                _ => None,
            })
        })
        .await?;
        let log = self.node.logs(namespace, name, "main").await?;
        Ok(Outcome { succeeded, log })
    }

    /// Waits until a pod's program runs.
    pub async fn running(&self, namespace: &str, name: &str) -> Result<()> {
        wait::until(&format!("a run of pod {namespace}/{name}"), async || {
            let pod = self.handle().object("v1", "pods", namespace, name);
            let pod = pod.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            match pod["status"]["phase"].as_str() {
                Some("Running") => Ok(Some(())),
                Some("Failed" | "Succeeded") => bail!("pod {namespace}/{name} has ended"),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Removes a pod and waits until it is gone.
    pub async fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.kubectl(&[
            "delete",
            "pod",
            name,
            "--namespace",
            namespace,
            "--grace-period=1",
            "--wait=false",
        ])?;
        wait::until_true(&format!("the removal of pod {namespace}/{name}"), || {
            let pods = self.handle().objects("v1", "pods", namespace);
            let pods = pods.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            Ok(pods.iter().all(|pod| pod["metadata"]["name"] != name))
        })
        .await
    }

    /// Runs a shell script in a pod that runs.
    pub async fn exec(&self, namespace: &str, pod: &str, script: &str) -> Result<Outcome> {
        let output = self
            .node
            .exec(namespace, pod, "main", &["sh", "-c", script])
            .await
            .with_context(|| format!("cannot run something in pod {namespace}/{pod}"))?;
        let mut log = String::from_utf8_lossy(&output.stdout).into_owned();
        log.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Outcome {
            succeeded: output.status.success(),
            log,
        })
    }

    fn pod(&self, namespace: &str, name: &str, trust: Trust, script: &str) -> Value {
        let authority = match trust {
            Trust::Postern => json!({"name": "authority", "configMap": {"name": "postern-ca"}}),
            Trust::Registry => json!({
                "name": "authority",
                "hostPath": {"path": self.registry_authority()},
            }),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "nodeName": self.node.name(),
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "hostAliases": [{"ip": REGISTRY_ADDRESS, "hostnames": [REGISTRY, SECOND]}],
                "containers": [{
                    "name": "main",
                    "image": mininode::CLIENT,
                    "command": ["sh", "-c", script],
                    "env": [
                        {"name": "SSL_CERT_FILE", "value": "/authority/ca.crt"},
                        {"name": "CURL_CA_BUNDLE", "value": "/authority/ca.crt"},
                    ],
                    "volumeMounts": [
                        {"name": "authority", "mountPath": "/authority"},
                        {"name": "images", "mountPath": "/images"},
                    ],
                }],
                "volumes": [
                    authority,
                    {"name": "images", "hostPath": {"path": self.images()}},
                ],
            },
        })
    }
}
