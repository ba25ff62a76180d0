//! What an API server does with a structural schema: refuses schemas that are none, and
//! objects that do not fit.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use proxy_common::api::cluster;
use serde_json::Value;

/// The schema of a kind.
pub(crate) fn of(kind: &str) -> JSONSchemaProps {
    let definitions = cluster::definitions().into_iter();
    let definition = definitions
        .map(|it| it.spec)
        .find(|it| it.names.kind == kind)
        .unwrap_or_else(|| panic!("no definition of {kind}"));
    let [version] = <[_; 1]>::try_from(definition.versions).expect("one version");
    let schema = version.schema.and_then(|it| it.open_api_v3_schema);
    schema.expect("a version has a schema")
}

/// The part of a schema at a path like `spec.auth.types[].name`.
pub(crate) fn at(schema: &JSONSchemaProps, path: &str) -> JSONSchemaProps {
    let mut schema = schema.clone();
    for step in path.split('.') {
        let name = step.trim_end_matches("[]");
        let mut properties = schema.properties.unwrap_or_default();
        schema = properties
            .remove(name)
            .unwrap_or_else(|| panic!("no {name} of {path}"));
        if step.ends_with("[]") {
            let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items else {
                panic!("{name} of {path} is no list");
            };
            schema = *items;
        }
    }
    schema
}

/// Calls `visit` with every part of a schema and its path.
pub(crate) fn walk(
    schema: &JSONSchemaProps,
    path: &str,
    visit: &mut dyn FnMut(&str, &JSONSchemaProps),
) {
    visit(path, schema);
    for (name, property) in schema.properties.iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        walk(values, &format!("{path}{{}}"), visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(items, &format!("{path}[]"), visit);
    }
}

/// Everything about an object that a server would refuse, or drop because it is unknown.
pub(crate) fn faults(schema: &JSONSchemaProps, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    // The envelope is the server's own.
    for name in ["apiVersion", "kind", "metadata"] {
        object.as_object_mut().expect("an object").remove(name);
    }
    let mut faults = Vec::new();
    check(schema, &object, "", &mut faults);
    faults
}

fn check(schema: &JSONSchemaProps, value: &Value, path: &str, faults: &mut Vec<String>) {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    let fits = match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{path}: type {other:?}"),
    };
    if !fits {
        return faults.push(format!("{path}: {value} is no {:?}", schema.type_));
    }
    let allowed = schema.enum_.as_ref();
    if allowed.is_some_and(|it| it.iter().all(|it| it.0 != *value)) {
        faults.push(format!("{path}: {value} is not allowed"));
    }
    for name in schema.required.iter().flatten() {
        if value.get(name).is_none() {
            faults.push(format!("{path}.{name}: missing"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let property = schema.properties.as_ref().and_then(|it| it.get(name));
        match (property, &schema.additional_properties) {
            (Some(property), _) => check(property, member, &path, faults),
            (None, Some(JSONSchemaPropsOrBool::Schema(values))) => {
                check(values, member, &path, faults);
            }
            _ => faults.push(format!("{path}: unknown")),
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            check(items, item, &format!("{path}[{index}]"), faults);
        }
    }
}
