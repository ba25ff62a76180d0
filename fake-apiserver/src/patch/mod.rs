//! The four forms of patches.

pub mod apply;
pub mod strategic;

use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// A patch as it was sent.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
    /// Merge that knows the keys of lists.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// RFC 7386: null removes, objects are merged, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902.
pub fn json(target: &mut Value, patch: &Value) -> Result<()> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| ApiError::bad_request(error.to_string()))?;
    json_patch::patch(target, &patch).map_err(|error| {
        ApiError::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {error}"))
    })
}
