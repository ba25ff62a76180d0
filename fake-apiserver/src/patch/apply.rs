//! Server-side apply: the applied configuration is merged into the live object, what the
//! manager applied before and no longer does is removed, and what others manage is only
//! taken from them by force.

use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{FieldSet, element};
use crate::managed::{self, Entry, Manager};
use crate::shape::{List, Shape};

/// The live object after the configuration was applied; its `managedFields` are new.
pub fn apply(live: &Value, mut config: Value, manager: &Manager, force: bool, shape: Shape<'_>) -> Result<Value> {
    drop_nulls(&mut config);
    let applied = FieldSet::of_object(&config, shape);
    let mut entries = managed::read(live);
    let before = entries.iter().find(|entry| entry.is(manager)).map(|entry| entry.fields.clone()).unwrap_or_default();

    let mut result = live.clone();
    merge_object(&mut result, &config, shape);
    let mut wanted = applied.clone();
    for entry in entries.iter().filter(|entry| !entry.is(manager)) {
        wanted.union(&entry.fields);
    }
    before.without(&wanted).remove_from(&mut result, &wanted, shape);

    let (changed, removed) = FieldSet::changes(live, &result, shape);
    settle_conflicts(&mut entries, manager, &changed, force)?;
    for entry in entries.iter_mut().filter(|entry| !entry.is(manager)) {
        entry.fields = entry.fields.without(&removed);
    }
    managed::assign(&mut entries, manager, applied);
    managed::write(&mut result, &entries);
    Ok(result)
}

fn settle_conflicts(entries: &mut [Entry], manager: &Manager, changed: &FieldSet, force: bool) -> Result<()> {
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.is(manager)) {
        let taken = entry.fields.common(changed);
        if taken.is_empty() {
            continue;
        }
        if force {
            entry.fields = entry.fields.without(&taken);
        } else {
            causes.extend(taken.paths().into_iter().map(|path| (entry.describe(), path)));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::apply_conflict(&causes)) }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn merge_object(live: &mut Value, config: &Value, shape: Shape<'_>) {
    for (name, value) in config.as_object().into_iter().flatten() {
        if name == "metadata" {
            // The managers are merged on their own, and the server's fields stay.
            let mut metadata = value.clone();
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.remove("managedFields");
            }
            merge(&mut live["metadata"], &metadata, shape.top(name));
        } else {
            merge(&mut live[name.as_str()], value, shape.top(name));
        }
    }
}

fn merge(live: &mut Value, config: &Value, shape: Shape<'_>) {
    match (&mut *live, config) {
        (Value::Object(map), Value::Object(fields)) if !shape.atomic_map() => {
            for (name, value) in fields {
                merge(map.entry(name.clone()).or_insert(Value::Null), value, shape.field(name));
            }
        }
        (Value::Array(items), Value::Array(applied)) if shape.list() != List::Atomic => {
            for item in applied {
                let wanted = element(item, shape);
                match items.iter_mut().find(|known| element(known, shape) == wanted) {
                    Some(known) => merge(known, item, shape.items()),
                    None => items.push(item.clone()),
                }
            }
        }
        _ => *live = config.clone(),
    }
}
