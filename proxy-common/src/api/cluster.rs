//! The kinds as a cluster serves them: the specs and statuses of manifests, in an envelope
//! with the metadata that Kubernetes clients expect.
//!
//! Reading is as strict as for manifests. An API server prunes what its schema does not
//! know, so a field that is unknown here comes from a schema newer than this program, and
//! half of an object must not be taken for the whole. Read them through
//! [`kube::core::DeserializeGuard`]: then one such object is one error, and no more.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};

pub use super::class::ConnectorClassObject as ConnectorClass;
pub use super::connector::ConnectorObject as Connector;

/// The definitions of all kinds, ready to be applied.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![Connector::crd(), ConnectorClass::crd()];
    for definition in &mut definitions {
        for version in &mut definition.spec.versions {
            let schema = version.schema.as_mut();
            if let Some(schema) = schema.and_then(|it| it.open_api_v3_schema.as_mut()) {
                tidy(schema);
            }
        }
    }
    definitions
}

/// Any JSON at all.
pub(super) fn any_json(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Turns what serde accepts into what a cluster should store.
///
/// - An absent field is absent, so a null is dropped instead of stored.
/// - Unknown fields are pruned or reported by the API server, as the client wants it; a
///   structural schema may not say so itself.
/// - Descriptions are for `kubectl explain`, which knows nothing of Rust.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.title = None;
    schema.nullable = None;
    if matches!(
        schema.additional_properties,
        Some(JSONSchemaPropsOrBool::Bool(false))
    ) {
        schema.additional_properties = None;
    }
    schema.description = schema.description.take().map(|text| plain(&text));
    if let Some(properties) = &mut schema.properties {
        properties.values_mut().for_each(tidy);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
}

/// A documentation comment without its links, its quotes and its line breaks.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, linked)) = rest.split_once("[`") {
        plain.push_str(before);
        let (name, after) = linked.split_once("`]").unwrap_or((linked, ""));
        plain.push_str(name);
        rest = after;
        if after.starts_with('(') {
            rest = after.split_once(')').map_or("", |(_, rest)| rest);
        }
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").replace('`', "")
}
