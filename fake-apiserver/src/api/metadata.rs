//! The metadata that the server itself keeps.

use serde_json::{Value, json};

use super::Target;
use crate::error::{ApiError, FieldError, Result};
use crate::generate;
use crate::resource::Resource;

const NAME_LIMIT: usize = 253;
/// What a generated name leaves room for.
const PREFIX_LIMIT: usize = 58;
/// What only the server sets.
const KEPT: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "selfLink",
];

/// A text of an object's metadata, empty if it has none.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"].get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the object waits for its end.
pub(crate) fn deleted(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Value) -> &[Value] {
    object["metadata"].get("finalizers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Gives a new object its name, uid and time.
pub(super) fn begin(target: &Target, object: &mut Value) -> Result<()> {
    let resource = &target.resource;
    let name = text(object, "name").to_owned();
    if !target.name.is_empty() && !name.is_empty() && name != target.name {
        return Err(wrong_name(&name, &target.name));
    }
    let prefix = text(object, "generateName").to_owned();
    let name = match (name.is_empty(), target.name.is_empty(), prefix.is_empty()) {
        (false, ..) => name,
        (true, false, _) => target.name.clone(),
        (true, true, false) => format!("{}{}", &prefix[..prefix.len().min(PREFIX_LIMIT)], generate::suffix()),
        (true, true, true) => {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(resource, "", &[error]));
        }
    };
    check_name(resource, &name)?;
    place(target, object)?;
    if !matches!(text(object, "resourceVersion"), "" | "0") {
        return Err(ApiError::internal("resourceVersion should not be set on objects to be created"));
    }
    let metadata = &mut object["metadata"];
    metadata["name"] = Value::from(name);
    metadata["uid"] = Value::from(generate::uid());
    metadata["creationTimestamp"] = Value::from(generate::now());
    if let Some(metadata) = metadata.as_object_mut() {
        for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink", "generation"] {
            metadata.remove(name);
        }
        if resource.generation {
            metadata.insert("generation".to_owned(), Value::from(1));
        }
    }
    Ok(())
}

pub(super) fn wrong_name(given: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({expected})"))
}

/// Puts an object into the namespace of the request.
pub(super) fn place(target: &Target, object: &mut Value) -> Result<()> {
    let given = text(object, "namespace").to_owned();
    if target.resource.namespaced {
        if !given.is_empty() && given != target.namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({given} and {})",
                target.namespace
            )));
        }
        object["metadata"]["namespace"] = Value::from(target.namespace.as_str());
    } else if !given.is_empty() {
        return Err(ApiError::bad_request("namespace is not allowed on this type"));
    }
    Ok(())
}

fn check_name(resource: &Resource, name: &str) -> Result<()> {
    // Roles have names with colons.
    let loose = resource.group == "rbac.authorization.k8s.io";
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let strict = name.chars().all(|c| letter(c) || matches!(c, '-' | '.')) && name.starts_with(letter) && name.ends_with(letter);
    let fits = name.len() <= NAME_LIMIT && if loose { !name.contains(['/', '%']) } else { strict };
    if fits {
        return Ok(());
    }
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
               and must start and end with an alphanumeric character";
    let error = FieldError::invalid("metadata.name", &Value::from(name), why);
    Err(ApiError::invalid(resource, name, &[error]))
}

/// Keeps in a changed object what a client cannot change.
pub(super) fn keep(live: &Value, new: &mut Value) {
    let Some(metadata) = new["metadata"].as_object_mut() else { return };
    for name in KEPT {
        match live["metadata"].get(name) {
            Some(value) => metadata.insert((*name).to_owned(), value.clone()),
            None => metadata.remove(*name),
        };
    }
}

/// Counts the generation up if the wanted state changed.
pub(super) fn count(resource: &Resource, live: &Value, new: &mut Value) {
    let wanted = |object: &Value| {
        let mut object = object.clone();
        if let Some(map) = object.as_object_mut() {
            map.remove("metadata");
            if resource.status {
                map.remove("status");
            }
        }
        object
    };
    if resource.generation && wanted(live) != wanted(new) {
        raise(new);
    }
}

/// Counts the generation up.
pub(super) fn raise(object: &mut Value) {
    if let Some(generation) = object["metadata"].get("generation").and_then(Value::as_i64) {
        object["metadata"]["generation"] = Value::from(generation + 1);
    }
}

/// Whether two objects are the same but for the times in their `managedFields`.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    let comparable = |object: &Value| {
        let mut object = object.clone();
        let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            entry["time"] = json!(null);
        }
        object
    };
    comparable(one) == comparable(other)
}
