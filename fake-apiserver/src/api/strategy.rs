//! What single kinds add: defaults, rules and fields that cannot be changed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::metadata::text;
use crate::cluster::State;
use crate::crd;
use crate::error::{ApiError, FieldError, Result};
use crate::resource::{Collection, Resource};

const SECRET_LIMIT: usize = 1 << 20;

fn set(value: &mut Value, name: &str, default: Value) {
    if let Some(map) = value.as_object_mut() {
        map.entry(name.to_owned()).or_insert(default);
    }
}

/// Completes a new object.
pub(super) fn prepare(state: &mut State, resource: &Resource, object: &mut Value) -> Result<()> {
    defaults(resource, object);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            let name = text(object, "name").to_owned();
            set(&mut object["metadata"], "labels", json!({}));
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = Value::from(name);
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        ("", "pods") => {
            check_account(state, object)?;
            object["status"] = json!({"phase": "Pending", "qosClass": quality(object)});
        }
        ("", "services") if object["spec"]["type"] != "ExternalName" => {
            if object["spec"].get("clusterIP").is_none() {
                let [_, _, third, fourth] = state.next_address.to_be_bytes();
                state.next_address += 1;
                let address = format!("10.96.{third}.{fourth}");
                object["spec"]["clusterIPs"] = json!([address]);
                object["spec"]["clusterIP"] = Value::from(address);
            }
            object["status"] = json!({"loadBalancer": {}});
        }
        ("apps", _) => object["status"] = json!({}),
        ("apiextensions.k8s.io", _) => object["status"] = crd::status(object),
        _ => {}
    }
    Ok(())
}

fn defaults(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "secrets") => {
            set(object, "type", Value::from("Opaque"));
            if let Some(texts) = object.as_object_mut().and_then(|map| map.remove("stringData")) {
                for (name, text) in texts.as_object().into_iter().flatten() {
                    object["data"][name] = Value::from(STANDARD.encode(text.as_str().unwrap_or_default()));
                }
            }
        }
        ("", "pods") => pod_spec(&mut object["spec"]),
        ("apps", kind) => {
            pod_spec(&mut object["spec"]["template"]["spec"]);
            match kind {
                "deployments" | "replicasets" | "statefulsets" => set(&mut object["spec"], "replicas", Value::from(1)),
                _ => {}
            }
            set(&mut object["spec"], "revisionHistoryLimit", Value::from(10));
        }
        ("", "services") => {
            let spec = &mut object["spec"];
            set(spec, "type", Value::from("ClusterIP"));
            set(spec, "sessionAffinity", Value::from("None"));
            for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                set(port, "protocol", Value::from("TCP"));
                let number = port["port"].clone();
                set(port, "targetPort", number);
            }
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            let group = resource.group.as_str();
            let reference = &mut object["roleRef"];
            if reference.is_object() && reference["apiGroup"].as_str().unwrap_or_default().is_empty() {
                reference["apiGroup"] = Value::from(group);
            }
            for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                if subject["kind"] != "ServiceAccount" {
                    set(subject, "apiGroup", Value::from(group));
                }
            }
        }
        ("apiextensions.k8s.io", _) => crd::default(object),
        _ => {}
    }
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    // The older name of the same field.
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        spec["serviceAccountName"] = account.clone();
        spec["serviceAccount"] = account;
    }
    for (name, default) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
    ] {
        set(spec, name, default);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map_or("latest", |(_, tag)| tag);
            let policy = if tag == "latest" && !image.contains('@') { "Always" } else { "IfNotPresent" };
            set(container, "imagePullPolicy", json!(policy));
            set(container, "resources", json!({}));
            set(container, "terminationMessagePath", json!("/dev/termination-log"));
            set(container, "terminationMessagePolicy", json!("File"));
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
}

fn check_account(state: &State, pod: &mut Value) -> Result<()> {
    set(&mut pod["spec"], "serviceAccountName", json!("default"));
    pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
    let (namespace, name) = (text(pod, "namespace"), text(pod, "name"));
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let accounts = Collection { group: String::new(), plural: "serviceaccounts".to_owned() };
    if state.store.get(&accounts, &(namespace.to_owned(), account.to_owned())).is_some() {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "pods \"{name}\" is forbidden: error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
    )))
}

fn quality(pod: &Value) -> &'static str {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let containers = containers.map(Vec::as_slice).unwrap_or_default();
    let both = |container: &Value| (container["resources"]["requests"].clone(), container["resources"]["limits"].clone());
    let guaranteed = |container: &Value| {
        let (requests, limits) = both(container);
        limits["cpu"].is_string() && limits["memory"].is_string() && (requests.is_null() || requests == limits)
    };
    if containers.iter().all(|container| both(container) == (Value::Null, Value::Null)) {
        "BestEffort"
    } else if containers.iter().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What is wrong with a built-in object.
pub(super) fn validate(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => containers(&object["spec"], "spec.containers", &mut errors),
        ("", "secrets" | "configmaps") => data(object, &mut errors),
        ("apps", _) => {
            let (selector, template) = (&object["spec"]["selector"], &object["spec"]["template"]);
            let labels = selector.get("matchLabels").and_then(Value::as_object);
            if labels.is_none_or(Map::is_empty) && selector.get("matchExpressions").is_none() {
                errors.push(FieldError::required("spec.selector", ""));
            }
            let fits = labels.into_iter().flatten().all(|(name, value)| template["metadata"]["labels"].get(name) == Some(value));
            if !fits {
                let why = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", &template["metadata"]["labels"], why));
            }
            containers(&template["spec"], "spec.template.spec.containers", &mut errors);
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            if object["roleRef"]["name"].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required("roleRef.name", ""));
            }
        }
        ("coordination.k8s.io", _) => {
            if object["spec"]["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
                let value = &object["spec"]["leaseDurationSeconds"];
                errors.push(FieldError::invalid("spec.leaseDurationSeconds", value, "must be greater than 0"));
            }
        }
        ("apiextensions.k8s.io", _) => errors.extend(crd::validate(object)),
        _ => {}
    }
    errors
}

fn containers(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let list = spec.get("containers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, container) in list.iter().enumerate() {
        let name = &container["name"];
        if name.as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{path}[{index}].name"), ""));
        } else if list[..index].iter().any(|other| &other["name"] == name) {
            errors.push(FieldError::duplicate(format!("{path}[{index}].name"), name));
        }
    }
}

fn data(object: &Value, errors: &mut Vec<FieldError>) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut size = 0;
    for (name, value) in object.get("data").and_then(Value::as_object).into_iter().flatten() {
        size += value.as_str().map_or(0, str::len);
        if name.is_empty() || !name.chars().all(allowed) {
            let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
            errors.push(FieldError::invalid(format!("data[{name}]"), &Value::from(name.as_str()), why));
        }
    }
    // Secrets are measured decoded; base64 makes four characters of three bytes.
    let limit = if object.get("type").is_some() { SECRET_LIMIT / 3 * 4 } else { SECRET_LIMIT };
    if size > limit {
        errors.push(FieldError {
            field: "data".to_owned(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {SECRET_LIMIT} bytes"),
        });
    }
}

/// Completes a changed object and finds changes that are not allowed.
pub(super) fn change(resource: &Resource, live: &Value, new: &mut Value, errors: &mut Vec<FieldError>) {
    defaults(resource, new);
    let mut fixed = |field: &str, pointer: &str| {
        if live.pointer(pointer) != new.pointer(pointer) {
            let value = new.pointer(pointer).cloned().unwrap_or_default();
            errors.push(FieldError::invalid(field, &value, "field is immutable"));
        }
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "secrets") => fixed("type", "/type"),
        ("apps", _) => fixed("spec.selector", "/spec/selector"),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            if live["roleRef"] != new["roleRef"] {
                errors.push(FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
            }
        }
        ("", "namespaces") => {
            let name = text(live, "name").to_owned();
            new["metadata"]["labels"]["kubernetes.io/metadata.name"] = Value::from(name);
            new["spec"] = live["spec"].clone();
        }
        ("", "services") => {
            for field in ["clusterIP", "clusterIPs"] {
                if let (None, Some(address)) = (new["spec"].get(field), live["spec"].get(field)) {
                    new["spec"][field] = address.clone();
                }
            }
        }
        ("", "pods") => pod_change(live, new, errors),
        ("apiextensions.k8s.io", _) => {
            fixed("spec.group", "/spec/group");
            fixed("spec.names.plural", "/spec/names/plural");
            fixed("spec.scope", "/spec/scope");
            new["status"] = crd::status(new);
        }
        _ => {}
    }
    if matches!(resource.plural.as_str(), "secrets" | "configmaps") && live["immutable"] == true {
        let differs = ["data", "binaryData", "immutable"].iter().find(|name| live.get(**name) != new.get(**name));
        if let Some(name) = differs {
            errors.push(FieldError::forbidden(*name, "field is immutable when `immutable` is set"));
        }
    }
}

fn pod_change(live: &Value, new: &mut Value, errors: &mut Vec<FieldError>) {
    for field in ["serviceAccountName", "serviceAccount", "nodeName"] {
        if let (None, Some(value)) = (new["spec"].get(field), live["spec"].get(field)) {
            new["spec"][field] = value.clone();
        }
    }
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            if let Some(map) = spec.as_object_mut() {
                map.remove(field);
            }
        }
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec
    };
    if fixed(live) != fixed(new) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                   to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        errors.push(FieldError::forbidden("spec", why));
    }
}
