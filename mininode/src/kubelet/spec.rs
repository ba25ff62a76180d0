//! From a pod to what the container runtime is asked for.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt;

use super::{Host, files, security, text};
use crate::cgroup::Qos;
use crate::cri;

/// The labels by which sandboxes and containers are found.
pub(crate) fn labels(
    namespace: &str,
    pod: &str,
    container: Option<&str>,
) -> HashMap<String, String> {
    [
        ("io.kubernetes.pod.namespace", Some(namespace)),
        ("io.kubernetes.pod.name", Some(pod)),
        ("io.kubernetes.container.name", container),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
    .collect()
}

/// Says no to a pod that would run differently from what it asks for.
pub(super) fn check(spec: &PodSpec) -> Result<()> {
    if spec
        .init_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        bail!("init containers are not supported");
    }
    for container in &spec.containers {
        let name = &container.name;
        if container
            .env_from
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        {
            bail!("container {name}: envFrom is not supported");
        }
        if container
            .security_context
            .as_ref()
            .is_some_and(|context| context.privileged == Some(true))
        {
            bail!("container {name}: privileged is not supported");
        }
        for variable in container.env.iter().flatten() {
            if variable.value_from.is_some() {
                bail!(
                    "container {name}: valueFrom of {} is not supported",
                    variable.name
                );
            }
        }
    }
    Ok(())
}

/// The class of quality of service: guaranteed if all have limits and ask for just those.
pub(super) fn qos(spec: &PodSpec) -> Qos {
    let mut guaranteed = true;
    let mut any = false;
    for container in &spec.containers {
        let resources = container.resources.clone().unwrap_or_default();
        let limits = resources.limits.unwrap_or_default();
        // Whoever asks for nothing gets what the limits say.
        let requests = resources.requests.unwrap_or_default();
        any |= !limits.is_empty() || !requests.is_empty();
        guaranteed &= ["cpu", "memory"].iter().all(|kind| {
            let limit = limits.get(*kind);
            limit.is_some() && requests.get(*kind).or(limit) == limit
        });
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

pub(super) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.hostname.clone())
        .unwrap_or_else(|| pod.name_any())
}

/// The path of a pod's cgroup below the node's.
pub(super) fn cgroup(host: &Host, pod: &Pod, spec: &PodSpec) -> String {
    host.layout.pod(qos(spec), &pod.uid().unwrap_or_default())
}

/// Where a pod's logs are.
pub(super) fn log_folder(host: &Host, pod: &Pod) -> PathBuf {
    let uid = pod.uid().unwrap_or_default();
    let namespace = pod.namespace().unwrap_or_default();
    let name = format!("{namespace}_{}_{uid}", pod.name_any());
    host.folder.join("logs").join(name)
}

pub(super) fn sandbox(host: &Host, pod: &Pod, spec: &PodSpec) -> cri::PodSandboxConfig {
    let name = pod.name_any();
    let namespace = pod.namespace().unwrap_or_default();
    cri::PodSandboxConfig {
        hostname: if security::is_host_network(spec) {
            String::new()
        } else {
            hostname(pod)
        },
        log_directory: text(&log_folder(host, pod)),
        // With an option the runtime writes the file, also where there is no name server.
        dns_config: Some(cri::DnsConfig {
            servers: host.nameserver.iter().cloned().collect(),
            searches: Vec::new(),
            options: vec!["ndots:5".to_owned()],
        }),
        labels: labels(&namespace, &name, None),
        annotations: pairs(pod.annotations()),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/{}", host.cgroup_name, cgroup(host, pod, spec)),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(security::namespaces(spec)),
            }),
        }),
        metadata: Some(cri::PodSandboxMetadata {
            name,
            uid: pod.uid().unwrap_or_default(),
            namespace,
            attempt: 0,
        }),
    }
}

/// What a container is made of; `volumes` says where each volume of the pod is.
pub(super) fn container(
    host: &Host,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<cri::ContainerConfig> {
    let name = &container.name;
    let spec = pod.spec.clone().unwrap_or_default();
    let hosts = cri::Mount {
        container_path: "/etc/hosts".to_owned(),
        host_path: text(&files::hosts(host, pod)),
        readonly: false,
    };
    let mut mounts = vec![hosts];
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes.get(&mount.name).with_context(|| {
            format!(
                "container {name} mounts the volume {}, which the pod lacks",
                mount.name
            )
        })?;
        let path = match mount.sub_path.as_deref() {
            None | Some("") => volume.clone(),
            Some(part) => volume.join(below(part)?),
        };
        mounts.push(cri::Mount {
            container_path: mount.mount_path.clone(),
            host_path: text(&path),
            readonly: mount.read_only == Some(true),
        });
    }
    let envs = container
        .env
        .iter()
        .flatten()
        .map(|variable| cri::KeyValue {
            key: variable.name.clone(),
            value: variable.value.clone().unwrap_or_default(),
        });
    let namespace = pod.namespace().unwrap_or_default();
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.clone(),
            attempt,
        }),
        image: Some(cri::ImageSpec {
            image: container.image.clone().unwrap_or_default(),
        }),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts,
        labels: labels(&namespace, &pod.name_any(), Some(name)),
        annotations: HashMap::new(),
        log_path: format!("{name}/{attempt}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(security::of(&spec, container)),
        }),
    })
}

/// A relative path that does not lead out.
pub(super) fn below(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(path);
    }
    bail!("the path {} leads out of its volume", path.display())
}

fn pairs(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(containers: &Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers})).unwrap()
    }

    #[test]
    fn quality_of_service_follows_from_requests_and_limits() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, expected) in [
            (json!([{}]), Qos::BestEffort),
            (json!([{"limits": full}]), Qos::Guaranteed),
            (json!([{"limits": full, "requests": full}]), Qos::Guaranteed),
            (
                json!([{"limits": full, "requests": {"cpu": "500m"}}]),
                Qos::Burstable,
            ),
            (json!([{"requests": full}]), Qos::Burstable),
            (json!([{"limits": full}, {}]), Qos::Burstable),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .unwrap()
                .iter()
                .map(|resources| json!({"name": "a", "resources": resources}))
                .collect();
            assert_eq!(qos(&spec(&json!(containers))), expected, "{resources}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for containers in [
            json!([{"name": "a", "envFrom": [{"configMapRef": {"name": "x"}}]}]),
            json!([{"name": "a", "env": [{"name": "X", "valueFrom": {}}]}]),
            json!([{"name": "a", "securityContext": {"privileged": true}}]),
        ] {
            let error = check(&spec(&containers)).unwrap_err().to_string();
            assert!(error.contains("not supported"), "{error}");
        }
        assert!(check(&spec(&json!([{"name": "a"}]))).is_ok());
    }

    #[test]
    fn paths_stay_in_their_volume() {
        assert!(below("a/b").is_ok());
        assert!(below("../a").is_err());
        assert!(below("/a").is_err());
    }
}
