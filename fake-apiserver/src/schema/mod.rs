//! Structural schemas: unknown fields fall out, defaults come in, values are checked.

mod validate;

pub use validate::validate;

use serde_json::{Map, Value};

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn open(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

/// Takes out of an object what its schema does not know, and says what that was.
pub fn prune(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_map(object, schema, "", true, &mut unknown);
    unknown
}

fn prune_value(value: &mut Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(_) => prune_map(value, schema, path, flag(schema, "x-kubernetes-embedded-resource"), unknown),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_value(item, schema, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn prune_map(value: &mut Value, schema: &Value, path: &str, resource: bool, unknown: &mut Vec<String>) {
    let Some(map) = value.as_object_mut() else { return };
    let more = schema.get("additionalProperties");
    let keeps_all = open(schema) || more.and_then(Value::as_bool) == Some(true);
    map.retain(|name, child| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            return true;
        }
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        if let Some(schema) = property.or_else(|| more.filter(|more| more.is_object())) {
            prune_value(child, schema, &path, unknown);
            return true;
        }
        if !keeps_all {
            unknown.push(path);
        }
        keeps_all
    });
}

/// Fills in the defaults of a schema.
pub fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => default_map(map, schema),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| default(item, schema));
            }
        }
        _ => {}
    }
}

fn default_map(map: &mut Map<String, Value>, schema: &Value) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        let default = schema.get("default");
        // Null stands for "not given" where null is no value.
        if map.get(name).is_some_and(Value::is_null) && !flag(schema, "nullable") && default.is_some() {
            map.remove(name);
        }
        if let (false, Some(default)) = (map.contains_key(name), default) {
            map.insert(name.clone(), default.clone());
        }
        if let Some(child) = map.get_mut(name) {
            self::default(child, schema);
        }
    }
    if let Some(schema) = schema.get("additionalProperties").filter(|more| more.is_object()) {
        let known = |name: &String| properties.is_some_and(|properties| properties.contains_key(name));
        for (_, child) in map.iter_mut().filter(|(name, _)| !known(name)) {
            default(child, schema);
        }
    }
}
