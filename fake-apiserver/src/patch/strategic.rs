//! Strategic merge patch: a merge patch that knows by which field the items of a list are
//! told apart, with directives for what cannot be said otherwise.

use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::shape::{List, Shape};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Patches an object.
pub fn merge(target: &mut Value, patch: &Value, shape: Shape<'_>) -> Result<()> {
    into_map(target, patch, shape, true)
}

fn into_map(target: &mut Value, patch: &Value, shape: Shape<'_>, top: bool) -> Result<()> {
    let Some(fields) = patch.as_object() else {
        return Err(ApiError::bad_request("a strategic merge patch has to be an object"));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return Ok(()) };
    match directive(patch) {
        Some("replace") => map.clear(),
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        _ => {}
    }
    if let Some(retained) = fields.get(RETAIN).and_then(Value::as_array) {
        map.retain(|name, _| retained.iter().any(|kept| kept == name.as_str()));
    }
    for (name, values) in fields {
        if let (Some(name), Some(values)) = (name.strip_prefix(DELETE), values.as_array()) {
            if let Some(list) = map.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|item| !values.contains(item));
            }
        }
    }
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with('$')) {
        let shape = if top { shape.top(name) } else { shape.field(name) };
        match value {
            Value::Null => {
                map.remove(name);
            }
            Value::Object(_) if directive(value) == Some("delete") => {
                map.remove(name);
            }
            Value::Object(_) => into_map(map.entry(name.clone()).or_insert(Value::Null), value, shape, false)?,
            Value::Array(items) => {
                let list = map.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                into_list(list, items, shape)?;
            }
            _ => {
                map.insert(name.clone(), value.clone());
            }
        }
    }
    for (name, order) in fields {
        if let (Some(name), Some(order)) = (name.strip_prefix(ORDER), order.as_array()) {
            let shape = if top { shape.top(name) } else { shape.field(name) };
            if let Some(list) = map.get_mut(name).and_then(Value::as_array_mut) {
                sort(list, order, shape);
            }
        }
    }
    Ok(())
}

fn into_list(target: &mut Value, items: &[Value], shape: Shape<'_>) -> Result<()> {
    let replaced = items.iter().any(|item| directive(item) == Some("replace"));
    let Some(list) = target.as_array_mut() else {
        *target = Value::Array(Vec::new());
        return into_list(target, items, shape);
    };
    match shape.list() {
        List::Atomic => *list = items.to_vec(),
        List::Set => {
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        List::Map(keys) => {
            if replaced {
                list.clear();
            }
            let key = keys.first().copied().unwrap_or("name");
            for item in items.iter().filter(|item| directive(item) != Some("replace")) {
                let Some(wanted) = item.get(key) else {
                    let message = format!("map: {item} does not contain declared merge key: {key}");
                    return Err(ApiError::bad_request(message));
                };
                let position = list.iter().position(|known| known.get(key) == Some(wanted));
                match (position, directive(item) == Some("delete")) {
                    (Some(position), true) => {
                        list.remove(position);
                    }
                    (None, true) => {}
                    (Some(position), false) => into_map(&mut list[position], item, shape.items(), false)?,
                    (None, false) => {
                        let mut added = Value::Null;
                        into_map(&mut added, item, shape.items(), false)?;
                        list.push(added);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Items that the order names come in that order, all others after them.
fn sort(list: &mut [Value], order: &[Value], shape: Shape<'_>) {
    let keys = if let List::Map(keys) = shape.list() { keys } else { Vec::new() };
    let key = keys.first().copied();
    list.sort_by_key(|item| {
        order
            .iter()
            .position(|wanted| match key {
                Some(key) => wanted.get(key).is_some() && wanted.get(key) == item.get(key),
                None => wanted == item,
            })
            .unwrap_or(usize::MAX)
    });
}

fn directive(value: &Value) -> Option<&str> {
    value.get(DIRECTIVE).and_then(Value::as_str)
}
