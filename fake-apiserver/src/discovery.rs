//! Discovery: which groups, versions and resources there are.

use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::resource::{Registry, Resource, group_version};

/// The version that the server says it is.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-04-22T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Whether the client takes everything in one answer.
pub fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|part| part.contains("g=apidiscovery.k8s.io") && part.contains("v=v2;"))
}

/// `/api`
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`
pub fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry.groups().iter().map(|(name, versions)| group_of(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub fn group(registry: &Registry, name: &str) -> Result<Value> {
    let groups = registry.groups();
    let versions = groups.get(name).ok_or_else(ApiError::no_such_path)?;
    let mut group = group_of(name, versions);
    group["kind"] = Value::from("APIGroup");
    group["apiVersion"] = Value::from("v1");
    Ok(group)
}

fn group_of(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(name, version), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// `/api/v1` and `/apis/<group>/<version>`
pub fn resources(registry: &Registry, group: &str, version: &str) -> Result<Value> {
    let served: Vec<&Resource> =
        registry.iter().map(|resource| &**resource).filter(|resource| resource.group == group && resource.version == version).collect();
    if served.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut list = Vec::new();
    for resource in served {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for (name, kind, verbs) in resource.subresources() {
            list.push(json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": if kind.is_empty() { &resource.kind } else { kind }, "verbs": verbs,
            }));
        }
    }
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, version), "resources": list,
    }))
}

/// Everything below `/api` or `/apis` in one answer.
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let groups: Vec<(String, Vec<String>)> =
        if core { vec![(String::new(), vec!["v1".to_owned()])] } else { registry.groups().into_iter().collect() };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = registry
                        .iter()
                        .filter(|resource| resource.group == *group && resource.version == *version)
                        .map(|resource| aggregated_resource(resource))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |kind: &str| json!({"group": resource.group, "version": resource.version, "kind": kind});
    let subresources: Vec<Value> = resource
        .subresources()
        .into_iter()
        .map(|(name, other, verbs)| {
            let shown = if other.is_empty() { &resource.kind } else { other };
            json!({"subresource": name, "responseKind": kind(shown), "verbs": verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind(&resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": resource.verbs(),
    });
    if !subresources.is_empty() {
        entry["subresources"] = Value::from(subresources);
    }
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    entry
}
