//! Files that a pod's containers get from the node: volumes and `/etc/hosts`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, Pod, PodSpec};
use kube::{Api, ResourceExt};

use super::{Host, spec};

/// Makes the pod's volumes and says where each of them is.
pub(super) async fn volumes(
    host: &Host,
    pod: &Pod,
    spec: &PodSpec,
) -> Result<BTreeMap<String, PathBuf>> {
    let folder = host
        .pod_folder(&pod.uid().unwrap_or_default())
        .join("volumes");
    let mut made = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let name = &volume.name;
        let path = folder.join(name);
        if let Some(source) = &volume.host_path {
            made.insert(name.clone(), source.path.clone().into());
            continue;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make the volume {name}"))?;
        if let Some(source) = &volume.config_map {
            let namespace = pod.namespace().unwrap_or_default();
            config_map(host, &namespace, source, &path)
                .await
                .with_context(|| format!("volume {name}"))?;
        } else if volume.empty_dir.is_some() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
                .with_context(|| format!("cannot open the volume {name} to everybody"))?;
        } else {
            bail!("volume {name}: only configMap, emptyDir and hostPath are supported");
        }
        made.insert(name.clone(), path);
    }
    Ok(made)
}

async fn config_map(
    host: &Host,
    namespace: &str,
    source: &ConfigMapVolumeSource,
    folder: &Path,
) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(host.client.clone(), namespace);
    let name = &source.name;
    let Some(map) = maps
        .get_opt(name)
        .await
        .context("cannot read a ConfigMap")?
    else {
        if source.optional == Some(true) {
            return Ok(());
        }
        bail!("there is no ConfigMap {namespace}/{name}");
    };
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    contents.extend(
        map.data
            .into_iter()
            .flatten()
            .map(|(key, text)| (key, text.into_bytes())),
    );
    contents.extend(
        map.binary_data
            .into_iter()
            .flatten()
            .map(|(key, bytes)| (key, bytes.0)),
    );
    let mode = source.default_mode.unwrap_or(0o644);
    let files: Vec<(String, String, i32)> = match &source.items {
        None => contents
            .keys()
            .map(|key| (key.clone(), key.clone(), mode))
            .collect(),
        Some(items) => items
            .iter()
            .map(|item| {
                (
                    item.key.clone(),
                    item.path.clone(),
                    item.mode.unwrap_or(mode),
                )
            })
            .collect(),
    };
    for (key, path, mode) in files {
        let content = contents
            .get(&key)
            .with_context(|| format!("the ConfigMap {namespace}/{name} has no key {key}"))?;
        write(
            &folder.join(spec::below(&path)?),
            content,
            mode.cast_unsigned(),
        )?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context("cannot make a folder in a volume")?;
    }
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where a pod's `/etc/hosts` is.
pub(super) fn hosts(host: &Host, pod: &Pod) -> PathBuf {
    host.pod_folder(&pod.uid().unwrap_or_default())
        .join("hosts")
}

/// Writes it, once the pod has an address.
pub(super) fn write_hosts(host: &Host, pod: &Pod, spec: &PodSpec, address: &str) -> Result<()> {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    writeln!(text, "{address} {}", spec::hostname(pod))?;
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join(" ");
        writeln!(text, "{} {names}", alias.ip)?;
    }
    write(&hosts(host, pod), text.as_bytes(), 0o644)
}
