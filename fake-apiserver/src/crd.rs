//! CustomResourceDefinitions: what they have to say, and the resources that they serve.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::generate;
use crate::resource::{Collection, Column, Custom, Resource};

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn versions(crd: &Value) -> &[Value] {
    crd.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is(version: &Value, flag: &str) -> bool {
    version.get(flag).and_then(Value::as_bool).unwrap_or(false)
}

/// Fills in what may be left out.
pub fn default(crd: &mut Value) {
    let kind = text(crd, "/spec/names/kind").to_owned();
    if text(crd, "/spec/names/singular").is_empty() {
        crd["spec"]["names"]["singular"] = Value::from(kind.to_lowercase());
    }
    if text(crd, "/spec/names/listKind").is_empty() {
        crd["spec"]["names"]["listKind"] = Value::from(format!("{kind}List"));
    }
    if crd.pointer("/spec/conversion").is_none() {
        crd["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

/// What is wrong with a definition.
pub fn validate(crd: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (group, plural) = (text(crd, "/spec/group"), text(crd, "/spec/names/plural"));
    for (field, value) in [
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", text(crd, "/spec/names/kind")),
        ("spec.scope", text(crd, "/spec/scope")),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    let name = format!("{plural}.{group}");
    if text(crd, "/metadata/name") != name {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &crd["metadata"]["name"], why));
    }
    if !matches!(text(crd, "/spec/scope"), "" | "Namespaced" | "Cluster") {
        let allowed = [Value::from("Cluster"), Value::from("Namespaced")];
        errors.push(FieldError::not_supported("spec.scope", &crd["spec"]["scope"], &allowed));
    }
    if versions(crd).iter().filter(|version| is(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &Value::from(versions(crd).len()), why));
    }
    for (index, version) in versions(crd).iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(path, "schemas are required")),
            Some(schema) if text(schema, "/type") != "object" => {
                errors.push(FieldError::required(format!("{path}.type"), "must be object at the root"));
            }
            Some(schema) => structural(schema, &path, &mut errors),
        }
    }
    errors
}

/// A structural schema says of every value what type it has.
fn structural(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let typeless = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    if schema.get("type").is_none() && !typeless.iter().any(|flag| is(schema, flag)) {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if let (Some(_), Some(more)) = (schema.get("properties"), schema.get("additionalProperties"))
        && more.as_bool() != Some(false)
    {
        let field = format!("{path}.additionalProperties");
        errors.push(FieldError::forbidden(field, "additionalProperties and properties are mutual exclusive"));
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        structural(child, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(items) = schema.get("items") {
        structural(items, &format!("{path}.items"), errors);
    } else if text(schema, "/type") == "array" {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if let Some(more) = schema.get("additionalProperties").filter(|more| more.is_object()) {
        structural(more, &format!("{path}.additionalProperties"), errors);
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && regex::Regex::new(pattern).is_err()
    {
        errors.push(FieldError::invalid(format!("{path}.pattern"), &Value::from(pattern), "must be a valid regular expression"));
    }
    if let Some(default) = schema.get("default") {
        for error in super::schema::validate(default, schema) {
            errors.push(FieldError { field: format!("{path}.default"), ..error });
        }
    }
}

/// The status of a definition that is served.
pub fn status(crd: &Value) -> Value {
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": generate::now()})
    };
    let stored = versions(crd).iter().find(|version| is(version, "storage")).map(|version| version["name"].clone());
    let mut versions: Vec<Value> = crd.pointer("/status/storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    for version in stored {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let conditions = crd.pointer("/status/conditions").filter(|known| known.as_array().is_some_and(|list| !list.is_empty()));
    json!({
        "acceptedNames": crd["spec"]["names"],
        "conditions": conditions.cloned().unwrap_or_else(|| json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ])),
        "storedVersions": versions,
    })
}

/// The resources of a definition, one for each served version.
pub fn resources(crd: &Value) -> Vec<Resource> {
    let stored = versions(crd).iter().find(|version| is(version, "storage"));
    let storage_version = stored.map(|version| text(version, "/name").to_owned()).unwrap_or_default();
    let (group, plural) = (text(crd, "/spec/group"), text(crd, "/spec/names/plural"));
    let served = versions(crd).iter().filter(|version| is(version, "served"));
    served
        .map(|version| Resource {
            group: group.to_owned(),
            version: text(version, "/name").to_owned(),
            kind: text(crd, "/spec/names/kind").to_owned(),
            list_kind: text(crd, "/spec/names/listKind").to_owned(),
            plural: plural.to_owned(),
            singular: text(crd, "/spec/names/singular").to_owned(),
            short_names: texts(crd, "/spec/names/shortNames"),
            categories: texts(crd, "/spec/names/categories"),
            namespaced: text(crd, "/spec/scope") == "Namespaced",
            status: version.pointer("/subresources/status").is_some(),
            generation: true,
            unconditional: false,
            create_only: false,
            collection: Collection { group: group.to_owned(), plural: plural.to_owned() },
            custom: Some(Custom {
                schema: version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default(),
                columns: columns(version),
                selectable: selectable(version),
                storage_version: storage_version.clone(),
            }),
        })
        .collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let list = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let columns: Vec<Column> = list
        .into_iter()
        .flatten()
        .map(|column| Column {
            name: text(column, "/name").to_owned(),
            kind: text(column, "/type").to_owned(),
            description: text(column, "/description").to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            path: text(column, "/jsonPath").to_owned(),
        })
        .collect();
    if !columns.is_empty() {
        return columns;
    }
    vec![Column {
        name: "Age".to_owned(),
        kind: "date".to_owned(),
        description: String::new(),
        priority: 0,
        path: ".metadata.creationTimestamp".to_owned(),
    }]
}

fn selectable(version: &Value) -> Vec<String> {
    let fields = version.get("selectableFields").and_then(Value::as_array);
    fields.into_iter().flatten().map(|field| text(field, "/jsonPath").to_owned()).collect()
}
