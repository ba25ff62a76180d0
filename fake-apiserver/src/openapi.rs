//! OpenAPI, as far as clients need it: which paths take which parameters, and the schemas
//! of custom resources.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::resource::{Registry, Resource};

fn root(resource: &Resource) -> String {
    if resource.group.is_empty() { format!("api/{}", resource.version) } else { format!("apis/{}", resource.api_version()) }
}

/// `/openapi/v3`
pub fn index(registry: &Registry) -> Value {
    let roots: BTreeSet<String> = registry.iter().map(|resource| root(resource)).collect();
    let paths: Map<String, Value> = roots
        .into_iter()
        .map(|root| {
            let url = format!("/openapi/v3/{root}");
            (root, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/<path>`
pub fn document(registry: &Registry, path: &str) -> Result<Value> {
    let served: Vec<&Resource> = registry.iter().map(|resource| &**resource).filter(|resource| root(resource) == path).collect();
    if served.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut document = describe(&served);
    document["openapi"] = Value::from("3.0.0");
    Ok(document)
}

/// `/openapi/v2`
pub fn legacy(registry: &Registry) -> Value {
    let served: Vec<&Resource> = registry.iter().map(|resource| &**resource).collect();
    let mut document = describe(&served);
    let schemas = document["components"]["schemas"].take();
    if let Some(map) = document.as_object_mut() {
        map.remove("components");
        map.insert("definitions".to_owned(), schemas);
        map.insert("swagger".to_owned(), Value::from("2.0"));
    }
    document
}

fn describe(served: &[&Resource]) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in served {
        let identity = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let namespace = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{}{namespace}/{}", root(resource), resource.plural);
        paths.insert(collection.clone(), json!({"post": operation("post", &identity)}));
        if !resource.create_only {
            let item = json!({
                "get": operation("get", &identity),
                "put": operation("put", &identity),
                "patch": operation("patch", &identity),
            });
            paths.insert(format!("{collection}/{{name}}"), item);
        }
        let name = format!("{}.{}.{}", if resource.group.is_empty() { "core" } else { &resource.group }, resource.version, resource.kind);
        let mut schema = resource.custom.as_ref().map_or_else(|| json!({"type": "object"}), |custom| custom.schema.clone());
        schema["x-kubernetes-group-version-kind"] = json!([identity]);
        schemas.insert(name, schema);
    }
    json!({
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

fn operation(method: &str, identity: &Value) -> Value {
    let parameter = |name: &str, kind: &str| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}});
    let mut operation = json!({
        "x-kubernetes-action": method, "x-kubernetes-group-version-kind": identity,
        "responses": {"200": {"description": "OK"}}, "parameters": [parameter("pretty", "string")],
    });
    if method != "get" {
        operation["parameters"] = json!([
            parameter("dryRun", "string"),
            parameter("fieldManager", "string"),
            parameter("fieldValidation", "string"),
        ]);
    }
    if method == "patch" {
        // Strategic merge patches are taken too, but not announced: a client would look for
        // the keys of lists in schemas that are not here, and otherwise knows them itself.
        let media = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
        let content: Map<String, Value> = media.into_iter().map(|media| (media.to_owned(), json!({"schema": {"type": "object"}}))).collect();
        operation["requestBody"] = json!({"content": content});
    }
    operation
}
