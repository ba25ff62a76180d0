//! A stand-in for the kubelet: it runs the pods that an API server assigns to a node.
//!
//! What it knows of a pod: containers with image, command, args, working directory, env with
//! literal values and mounts; volumes of the kinds `configMap`, `emptyDir` and `hostPath`;
//! hostAliases, hostname, hostNetwork, `runAsUser`, `runAsGroup`, `readOnlyRootFilesystem`,
//! the three restart policies (without back-off), quality of service as far as the cgroup's
//! name goes, deletion with grace. A pod that wants anything else that would change how its
//! containers see the world becomes Failed and says why. There are no probes, no limits, no
//! updates of mounted `ConfigMaps`, and images are never pulled.

mod files;
mod pod;
mod running;
mod security;
mod spec;
mod status;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::cgroup::CgroupLayout;
use crate::containerd::GATEWAY;
use crate::cri::Cri;
use crate::node::Node;

pub(crate) use spec::labels;

/// A running stand-in. When it is dropped, pods run on and nobody looks after them.
#[derive(Debug)]
pub struct Kubelet {
    task: AbortHandle,
}

/// What it knows of its node.
struct Host {
    name: String,
    cri: Cri,
    client: Client,
    layout: CgroupLayout,
    /// The node's cgroup, in the machine's file system and as the container runtime calls it.
    cgroup: PathBuf,
    cgroup_name: String,
    /// Below this folder are volumes and logs.
    folder: PathBuf,
    nameserver: Option<String>,
    address: Ipv4Addr,
}

impl Kubelet {
    /// Starts it in the node's network with a kubeconfig's text, in which the API server is as
    /// the node reaches it.
    pub async fn start(node: &Node, kubeconfig: &str) -> Result<Self> {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("not a kubeconfig")?;
        let nameserver = node.options().network.nameserver;
        let parts = (
            node.cri().clone(),
            node.cgroup().to_owned(),
            node.cgroup_name().to_owned(),
            node.files().path().to_owned(),
            node.options().clone(),
        );
        let task = node
            .inside(async move {
                let (cri, cgroup, cgroup_name, folder, options) = parts;
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                        .await?;
                let host = Arc::new(Host {
                    name: options.name,
                    cri,
                    client: Client::try_from(config)?,
                    layout: options.cgroups,
                    cgroup,
                    cgroup_name,
                    folder,
                    nameserver: nameserver.map(|address| address.to_string()),
                    address: GATEWAY,
                });
                anyhow::Ok(tokio::spawn(follow(host)).abort_handle())
            })
            .await?;
        Ok(Self { task })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A pod's own folder.
    fn pod_folder(&self, uid: &str) -> PathBuf {
        self.folder.join("pods").join(uid)
    }
}

/// Pods at work by uid, and how each is told to end: within so many seconds.
type Ends = HashMap<String, watch::Sender<Option<i64>>>;

/// Follows the node's pods until it is aborted, which ends its tasks, too.
async fn follow(host: Arc<Host>) {
    let all: Api<Pod> = Api::all(host.client.clone());
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", host.name));
    let mut events = std::pin::pin!(watcher(all, mine).default_backoff());
    let mut ends = Ends::new();
    let mut listed = HashSet::new();
    let mut tasks = JoinSet::new();
    loop {
        // After an error the watcher tries again.
        let Ok(event) = events.try_next().await else {
            continue;
        };
        ends.retain(|_, end| !end.is_closed());
        while tasks.try_join_next().is_some() {}
        match event {
            None => return,
            Some(watcher::Event::Init) => listed.clear(),
            Some(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                apply(&host, pod, &mut ends, &mut tasks);
            }
            Some(watcher::Event::InitDone) => {
                for (uid, end) in &ends {
                    if !listed.contains(uid) {
                        end.send_replace(Some(0));
                    }
                }
            }
            Some(watcher::Event::Apply(pod)) => apply(&host, pod, &mut ends, &mut tasks),
            Some(watcher::Event::Delete(pod)) => {
                if let Some(end) = pod.uid().and_then(|uid| ends.get(&uid)) {
                    end.send_replace(Some(0));
                }
            }
        }
    }
}

/// Begins with a new pod, and tells a known one if it is to end.
fn apply(host: &Arc<Host>, pod: Pod, ends: &mut Ends, tasks: &mut JoinSet<()>) {
    let Some(uid) = pod.uid() else { return };
    let grace = pod
        .metadata
        .deletion_timestamp
        .is_some()
        .then(|| pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    if let Some(end) = ends.get(&uid) {
        end.send_if_modified(|known| {
            let changed = grace.is_some() && *known != grace;
            if changed {
                *known = grace;
            }
            changed
        });
        return;
    }
    if status::is_over(&pod) && grace.is_none() {
        // It ended before our time.
        return;
    }
    let (end, ending) = watch::channel(grace);
    tasks.spawn(pod::live(Arc::clone(host), pod, ending));
    ends.insert(uid, end);
}

/// A path as the messages of the runtime want it.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
