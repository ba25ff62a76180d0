//! From the body of a request to a stored object and back.

use serde_json::{Value, json};

use super::FieldValidation;
use crate::builtin;
use crate::error::{ApiError, FieldError, Result};
use crate::event;
use crate::resource::Resource;
use crate::schema;

/// Checks what kind of object was sent, and fills that in where it was left out.
pub(super) fn identify(resource: &Resource, object: &mut Value) -> Result<()> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body of the request has to be an object"));
    };
    let expected = [("apiVersion", resource.api_version(), "API version"), ("kind", resource.kind.clone(), "kind")];
    for (field, expected, what) in expected {
        match map.get(field).and_then(Value::as_str) {
            Some(given) if !given.is_empty() && given != expected => {
                let message = format!("the {what} in the data ({given}) does not match the expected {what} ({expected})");
                return Err(ApiError::bad_request(message));
            }
            _ => {
                map.insert(field.to_owned(), Value::from(expected));
            }
        }
    }
    if !map.get("metadata").is_some_and(Value::is_object) {
        map.insert("metadata".to_owned(), json!({}));
    }
    Ok(())
}

/// Drops the fields that the kind does not have, and brings the object into the form in
/// which it is stored. Returns warnings.
pub(super) fn decode(resource: &Resource, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>> {
    let unknown = match &resource.custom {
        Some(custom) => {
            let unknown = schema::prune(object, &custom.schema);
            schema::default(object, &custom.schema);
            unknown
        }
        None => {
            let typed = builtin::typed(resource, object.clone()).map_err(|error| {
                let (kind, version) = (&resource.kind, &resource.version);
                ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"))
            })?;
            let mut unknown = Vec::new();
            builtin::lost(object, &typed, "", &mut unknown);
            *object = typed;
            unknown
        }
    };
    event::store(resource, object);
    if let Some(custom) = &resource.custom {
        let stored = crate::resource::group_version(&resource.group, &custom.storage_version);
        object["apiVersion"] = Value::from(stored);
    }
    let messages: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match validation {
        FieldValidation::Strict if !messages.is_empty() => {
            let kind = &resource.kind;
            let list = messages.join(", ");
            let message = format!("{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {list}", resource.version);
            Err(ApiError::bad_request(message))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(messages),
    }
}

/// What is wrong with a custom resource, by its schema.
pub(super) fn check_schema(resource: &Resource, object: &Value) -> Vec<FieldError> {
    resource.custom.as_ref().map(|custom| schema::validate(object, &custom.schema)).unwrap_or_default()
}

/// A stored object in the version of the request.
pub fn encode(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    event::present(resource, &mut object);
    object["apiVersion"] = Value::from(resource.api_version());
    object["kind"] = Value::from(resource.kind.as_str());
    object
}
