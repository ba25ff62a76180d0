//! Tables, as `kubectl get` prints them.

use serde_json::{Value, json};

use crate::generate;
use crate::jsonpath;
use crate::present::{Include, metadata_of};
use crate::resource::{Column, Resource};

/// Rows for objects.
pub fn table(resource: &Resource, objects: &[Value], metadata: &Value, include: Include, columns: bool) -> Value {
    let shown = columns_of(resource);
    let definitions: Vec<Value> = shown
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            // Ages are printed as they are.
            let kind = if column.kind == "date" && resource.custom.is_none() { "string" } else { &column.kind };
            json!({"name": column.name, "type": kind, "format": format, "description": column.description, "priority": column.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = shown.iter().map(|column| cell(object, column)).collect();
            let object = match include {
                Include::Metadata => metadata_of(object),
                Include::Object => object.clone(),
                Include::None => Value::Null,
            };
            json!({"cells": cells, "object": object})
        })
        .collect();
    let definitions = if columns { Value::from(definitions) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

fn columns_of(resource: &Resource) -> Vec<Column> {
    let mut columns = vec![column("Name", "string", ".metadata.name")];
    if let Some(custom) = &resource.custom {
        columns.extend(custom.columns.iter().cloned());
        return columns;
    }
    let more: &[(&str, &str, &str)] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "configmaps") => &[("Data", "integer", "count:.data")],
        ("", "secrets") => &[("Type", "string", ".type"), ("Data", "integer", "count:.data")],
        ("", "namespaces") => &[("Status", "string", ".status.phase")],
        ("", "nodes") => &[("Status", "string", "node:"), ("Version", "string", ".status.nodeInfo.kubeletVersion")],
        ("", "pods") => &[
            ("Ready", "string", "ready:"),
            ("Status", "string", "phase:"),
            ("Restarts", "integer", "restarts:"),
        ],
        ("", "services") => &[
            ("Type", "string", ".spec.type"),
            ("Cluster-IP", "string", ".spec.clusterIP"),
            ("Port(s)", "string", ".spec.ports[*].port"),
        ],
        ("" | "events.k8s.io", "events") => {
            &[("Type", "string", ".type"), ("Reason", "string", ".reason"), ("Message", "string", "message:")]
        }
        ("apps", "daemonsets") => &[
            ("Desired", "integer", ".status.desiredNumberScheduled"),
            ("Current", "integer", ".status.currentNumberScheduled"),
            ("Ready", "integer", ".status.numberReady"),
        ],
        ("apps", _) => &[("Ready", "string", "replicas:"), ("Available", "integer", ".status.availableReplicas")],
        ("coordination.k8s.io", _) => &[("Holder", "string", ".spec.holderIdentity")],
        ("apiextensions.k8s.io", _) => &[("Created At", "date", "raw:.metadata.creationTimestamp")],
        ("policy", _) => &[
            ("Min Available", "string", ".spec.minAvailable"),
            ("Max Unavailable", "string", ".spec.maxUnavailable"),
        ],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &[("Role", "string", "role:")],
        _ => &[],
    };
    columns.extend(more.iter().map(|(name, kind, path)| column(name, kind, path)));
    if resource.group != "apiextensions.k8s.io" {
        columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    }
    columns
}

fn column(name: &str, kind: &str, path: &str) -> Column {
    Column { name: name.to_owned(), kind: kind.to_owned(), description: String::new(), priority: 0, path: path.to_owned() }
}

fn cell(object: &Value, column: &Column) -> Value {
    if let Some((special, path)) = column.path.split_once(':')
        && !path.contains("@")
        && special.chars().all(char::is_alphabetic)
    {
        return special_cell(object, special, path);
    }
    let found = jsonpath::find(object, &column.path);
    match (column.kind.as_str(), found.as_slice()) {
        (_, [] | [Value::Null]) => {
            if column.kind == "string" || column.kind == "date" { Value::from("") } else { Value::Null }
        }
        ("date", [Value::String(time), ..]) => Value::from(generate::age(time)),
        ("string", [Value::String(text)]) => Value::from(text.as_str()),
        ("string", [single]) => Value::from(single.to_string()),
        ("string", several) => Value::from(join(several)),
        (_, [first, ..]) => (*first).clone(),
    }
}

fn join(values: &[&Value]) -> String {
    let texts: Vec<String> =
        values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
    texts.join(",")
}

fn special_cell(object: &Value, special: &str, path: &str) -> Value {
    let statuses = || jsonpath::find(object, ".status.containerStatuses[*]");
    match special {
        "count" => {
            let count = jsonpath::find(object, path).first().and_then(|map| map.as_object()).map_or(0, serde_json::Map::len);
            Value::from(count)
        }
        "raw" => jsonpath::find(object, path).first().map(|value| (*value).clone()).unwrap_or_default(),
        "ready" => {
            let ready = statuses().iter().filter(|status| status["ready"] == true).count();
            let all = jsonpath::find(object, ".spec.containers[*]").len();
            Value::from(format!("{ready}/{all}"))
        }
        "restarts" => Value::from(statuses().iter().filter_map(|status| status["restartCount"].as_i64()).sum::<i64>()),
        "phase" if object["metadata"].get("deletionTimestamp").is_some() => Value::from("Terminating"),
        "phase" => object["status"]["phase"].clone(),
        "node" => {
            let ready = jsonpath::find(object, ".status.conditions[?(@.type==\"Ready\")].status");
            Value::from(match ready.first().and_then(|status| status.as_str()) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            })
        }
        "message" => ["message", "note"].iter().find_map(|name| object.get(*name)).cloned().unwrap_or_default(),
        "replicas" => {
            let ready = object["status"]["readyReplicas"].as_i64().unwrap_or_default();
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or_default();
            Value::from(format!("{ready}/{wanted}"))
        }
        "role" => {
            let reference = &object["roleRef"];
            let part = |name: &str| reference[name].as_str().unwrap_or_default().to_owned();
            Value::from(format!("{}/{}", part("kind"), part("name")))
        }
        _ => Value::Null,
    }
}
