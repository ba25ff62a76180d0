//! What single kinds fill in where it was left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::crd;
use crate::resource::Resource;

/// Sets a field that is missing.
pub(super) fn set(value: &mut Value, name: &str, default: Value) {
    if let Some(map) = value.as_object_mut() {
        map.entry(name.to_owned()).or_insert(default);
    }
}

/// Fills in the defaults of a built-in kind.
pub(super) fn defaults(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "secrets") => {
            set(object, "type", Value::from("Opaque"));
            if let Some(texts) = object
                .as_object_mut()
                .and_then(|map| map.remove("stringData"))
            {
                for (name, text) in texts.as_object().into_iter().flatten() {
                    object["data"][name] =
                        Value::from(STANDARD.encode(text.as_str().unwrap_or_default()));
                }
            }
        }
        ("", "pods") => pod_spec(&mut object["spec"]),
        ("apps", kind) => {
            pod_spec(&mut object["spec"]["template"]["spec"]);
            match kind {
                "deployments" | "replicasets" | "statefulsets" => {
                    set(&mut object["spec"], "replicas", Value::from(1));
                }
                _ => {}
            }
            set(&mut object["spec"], "revisionHistoryLimit", Value::from(10));
        }
        ("", "services") => {
            let spec = &mut object["spec"];
            set(spec, "type", Value::from("ClusterIP"));
            set(spec, "sessionAffinity", Value::from("None"));
            for port in spec
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                set(port, "protocol", Value::from("TCP"));
                let number = port["port"].clone();
                set(port, "targetPort", number);
            }
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            let group = resource.group.as_str();
            let reference = &mut object["roleRef"];
            if reference.is_object()
                && reference["apiGroup"]
                    .as_str()
                    .unwrap_or_default()
                    .is_empty()
            {
                reference["apiGroup"] = Value::from(group);
            }
            for subject in object
                .get_mut("subjects")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
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
    let account = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .cloned();
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
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let image = container
                .get("image")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let tag = image
                .rsplit('/')
                .next()
                .and_then(|last| last.split_once(':'))
                .map_or("latest", |(_, tag)| tag);
            let policy = if tag == "latest" && !image.contains('@') {
                "Always"
            } else {
                "IfNotPresent"
            };
            set(container, "imagePullPolicy", json!(policy));
            set(container, "resources", json!({}));
            set(
                container,
                "terminationMessagePath",
                json!("/dev/termination-log"),
            );
            set(container, "terminationMessagePolicy", json!("File"));
            for port in container
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
}
