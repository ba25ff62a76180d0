//! A node with its kubelet and an API server.

use std::process::Output;
use std::time::Duration;

use fake_apiserver::{Handle, Server};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mininode::{BUSYBOX, CgroupLayout, Kubelet, Node, Options};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

pub(crate) struct World {
    // The node goes last: the others live in its network.
    _kubelet: Kubelet,
    pub(crate) server: Server,
    pub(crate) node: Node,
}

impl World {
    pub(crate) async fn new(cgroups: CgroupLayout) -> Self {
        Self::with(Options {
            cgroups,
            ..Options::default()
        })
        .await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let node = Node::start(options).await.unwrap();
        let server = node
            .inside(Server::start(fake_apiserver::Options::default()))
            .await
            .unwrap();
        let kubelet = Kubelet::start(&node, &server.kubeconfig(None))
            .await
            .unwrap();
        Self {
            _kubelet: kubelet,
            server,
            node,
        }
    }

    pub(crate) fn api(&self) -> &Handle {
        self.server.handle()
    }

    /// Creates a pod and returns its uid.
    pub(crate) fn create(&self, name: &str, spec: &Value) -> String {
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        let pod = self.api().create("v1", "pods", "default", pod).unwrap();
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.api().object("v1", "pods", "default", name).ok()
    }

    /// Waits until a pod is in a phase and returns it.
    pub(crate) async fn reach(&self, name: &str, phase: &str) -> Value {
        let found = timeout(LIMIT, async {
            loop {
                let pod = self.pod(name).unwrap();
                if pod["status"]["phase"] == phase {
                    return pod;
                }
                sleep(POLL).await;
            }
        });
        let status = || self.pod(name).map(|pod| pod["status"].to_string());
        found
            .await
            .unwrap_or_else(|_| panic!("{name} is not {phase}: {:?}", status()))
    }

    /// Deletes a pod with the grace of its spec, or another one.
    pub(crate) async fn delete(&self, name: &'static str, grace: Option<u32>) {
        let kubeconfig = Kubeconfig::from_yaml(&self.server.kubeconfig(None)).unwrap();
        self.node
            .inside(async move {
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
                let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, "default");
                let parameters = DeleteParams {
                    grace_period_seconds: grace,
                    ..DeleteParams::default()
                };
                pods.delete(name, &parameters).await?;
                anyhow::Ok(())
            })
            .await
            .unwrap();
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        until(&format!("{name} is gone"), || self.pod(name).is_none()).await;
    }

    pub(crate) async fn exec(&self, pod: &str, argv: &[&str]) -> Output {
        self.node.exec("default", pod, "main", argv).await.unwrap()
    }

    /// What a shell script that succeeds writes.
    pub(crate) async fn sh(&self, pod: &str, script: &str) -> String {
        let output = self.exec(pod, &["sh", "-ec", script]).await;
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {stdout}{stderr}");
        stdout.trim_end().to_owned()
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = timeout(LIMIT, async {
        while !holds() {
            sleep(POLL).await;
        }
    });
    assert!(wait.await.is_ok(), "it does not happen that {what}");
}

/// A pod of one container `main` with busybox that runs a script and is not restarted.
pub(crate) fn script(script: &str) -> Value {
    json!({
        "nodeName": "node-1",
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]}],
    })
}

/// A pod that runs until it is deleted; then it ends at once.
pub(crate) fn idle() -> Value {
    script("trap 'exit 0' TERM; while true; do sleep 0.1; done")
}

pub(crate) fn address(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().unwrap()
}
