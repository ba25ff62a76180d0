//! The built-in kinds, and their check against the real types.
//!
//! A built-in object goes through the type of `k8s-openapi` once: fields that the type does
//! not know fall out, and a value of the wrong type is refused.

use k8s_openapi::api::{apps, authentication, authorization, coordination, core, discovery, events, policy, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::resource::{Collection, Resource};

/// Namespaced.
const N: u8 = 1;
/// Has `/status`.
const S: u8 = 2;
/// Counts its generation.
const G: u8 = 4;
/// Needs a resourceVersion for an update.
const V: u8 = 8;
/// Is created only, and not stored.
const R: u8 = 16;

type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, u8);

/// group, version, kind, plural, short name, flags
const TABLE: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", "cm", N),
    ("", "v1", "Endpoints", "endpoints", "ep", N),
    ("", "v1", "Event", "events", "ev", N),
    ("", "v1", "Namespace", "namespaces", "ns", S),
    ("", "v1", "Node", "nodes", "no", S),
    ("", "v1", "Pod", "pods", "po", N | S | G),
    ("", "v1", "Secret", "secrets", "", N),
    ("", "v1", "Service", "services", "svc", N | S),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", N),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "crd", S | G | V),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", N | S | G),
    ("apps", "v1", "Deployment", "deployments", "deploy", N | S | G),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", N | S | G),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts", N | S | G),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", R),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", R),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "", N | R),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", R),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", R),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", N | V),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", N | G),
    ("events.k8s.io", "v1", "Event", "events", "ev", N),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", N | S | G | V),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", 0),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", 0),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", N),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", N),
];

/// All built-in resources.
pub fn resources() -> impl Iterator<Item = Resource> {
    TABLE.iter().map(|&(group, version, kind, plural, short, flags)| Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: if short.is_empty() { Vec::new() } else { vec![short.to_owned()] },
        categories: if in_all(group, plural) { vec!["all".to_owned()] } else { Vec::new() },
        namespaced: flags & N != 0,
        status: flags & S != 0,
        generation: flags & G != 0,
        unconditional: flags & V == 0,
        create_only: flags & R != 0,
        // Both forms of an event are one object.
        collection: Collection {
            group: if plural == "events" { String::new() } else { group.to_owned() },
            plural: plural.to_owned(),
        },
        custom: None,
    })
}

fn in_all(group: &str, plural: &str) -> bool {
    group == "apps" || (group.is_empty() && matches!(plural, "pods" | "services"))
}

/// The object as its type knows it, or what is wrong with it.
pub fn typed(resource: &Resource, object: Value) -> Result<Value, String> {
    let convert = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "ConfigMap") => through::<core::v1::ConfigMap>,
        ("", "Endpoints") => through::<core::v1::Endpoints>,
        ("", "Event") => through::<core::v1::Event>,
        ("", "Namespace") => through::<core::v1::Namespace>,
        ("", "Node") => through::<core::v1::Node>,
        ("", "Pod") => through::<core::v1::Pod>,
        ("", "Secret") => through::<core::v1::Secret>,
        ("", "Service") => through::<core::v1::Service>,
        ("", "ServiceAccount") => through::<core::v1::ServiceAccount>,
        ("apiextensions.k8s.io", _) => through::<apiextensions::v1::CustomResourceDefinition>,
        ("apps", "DaemonSet") => through::<apps::v1::DaemonSet>,
        ("apps", "Deployment") => through::<apps::v1::Deployment>,
        ("apps", "ReplicaSet") => through::<apps::v1::ReplicaSet>,
        ("apps", "StatefulSet") => through::<apps::v1::StatefulSet>,
        ("authentication.k8s.io", "TokenReview") => through::<authentication::v1::TokenReview>,
        ("authentication.k8s.io", "TokenRequest") => through::<authentication::v1::TokenRequest>,
        ("authentication.k8s.io", "SelfSubjectReview") => through::<authentication::v1::SelfSubjectReview>,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => {
            through::<authorization::v1::LocalSubjectAccessReview>
        }
        ("authorization.k8s.io", "SelfSubjectAccessReview") => through::<authorization::v1::SelfSubjectAccessReview>,
        ("authorization.k8s.io", "SubjectAccessReview") => through::<authorization::v1::SubjectAccessReview>,
        ("coordination.k8s.io", _) => through::<coordination::v1::Lease>,
        ("discovery.k8s.io", _) => through::<discovery::v1::EndpointSlice>,
        ("events.k8s.io", _) => through::<events::v1::Event>,
        ("policy", _) => through::<policy::v1::PodDisruptionBudget>,
        ("rbac.authorization.k8s.io", "ClusterRole") => through::<rbac::v1::ClusterRole>,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => through::<rbac::v1::ClusterRoleBinding>,
        ("rbac.authorization.k8s.io", "Role") => through::<rbac::v1::Role>,
        ("rbac.authorization.k8s.io", "RoleBinding") => through::<rbac::v1::RoleBinding>,
        _ => return Ok(object),
    };
    let mut object = object;
    quantities(&mut object);
    convert(object)
}

fn through<T: Serialize + DeserializeOwned>(object: Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(object).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// Quantities may be written as numbers; they are kept as strings.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                let holds_quantities = matches!(name.as_str(), "limits" | "requests" | "capacity" | "allocatable");
                if let (true, Value::Object(quantities)) = (holds_quantities, &mut *child) {
                    for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
                        *quantity = Value::String(quantity.to_string());
                    }
                } else {
                    quantities(child);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}

/// Paths of fields that `after` no longer has.
pub fn lost(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match after.get(name) {
                    Some(kept) => lost(value, kept, &path, found),
                    None if value.is_null() => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (index, (value, kept)) in before.iter().zip(after).enumerate() {
                lost(value, kept, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
