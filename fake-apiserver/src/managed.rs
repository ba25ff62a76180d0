//! Who manages which fields of an object.

use serde_json::{Value, json};

use crate::fields::FieldSet;
use crate::generate;
use crate::resource::Resource;
use crate::shape::Shape;

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    /// The version of the API that it writes in.
    pub api_version: String,
    /// The subresource that it writes to, empty for the object.
    pub subresource: String,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name of the manager.
    pub name: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// The version of the API that it wrote in.
    pub api_version: String,
    /// The subresource that it wrote to.
    pub subresource: String,
    /// When.
    pub time: String,
    /// What it manages.
    pub fields: FieldSet,
}

impl Entry {
    /// Whether it belongs to that manager.
    pub fn is(&self, manager: &Manager) -> bool {
        self.name == manager.name
            && self.operation == manager.operation
            && self.api_version == manager.api_version
            && self.subresource == manager.subresource
    }

    /// How a conflict names it.
    pub fn describe(&self) -> String {
        let mut text = format!("\"{}\"", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }
}

/// The entries of an object.
pub fn read(object: &Value) -> Vec<Entry> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| Entry {
            name: text(entry, "manager"),
            operation: text(entry, "operation"),
            api_version: text(entry, "apiVersion"),
            subresource: text(entry, "subresource"),
            time: text(entry, "time"),
            fields: entry.get("fieldsV1").map(FieldSet::from_json).unwrap_or_default(),
        })
        .filter(|entry| !entry.operation.is_empty())
        .collect()
}

/// Puts entries into an object; those that manage nothing fall out.
pub fn write(object: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut value = json!({
                "manager": entry.name, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_json(),
            });
            if !entry.subresource.is_empty() {
                value["subresource"] = Value::from(entry.subresource.as_str());
            }
            value
        })
        .collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if list.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::from(list));
        }
    }
}

/// Gives the manager what it manages from now on.
pub fn assign(entries: &mut Vec<Entry>, manager: &Manager, fields: FieldSet) {
    match entries.iter_mut().find(|entry| entry.is(manager)) {
        Some(entry) if entry.fields == fields => {}
        Some(entry) => {
            entry.fields = fields;
            entry.time = generate::now();
        }
        None => entries.push(Entry {
            name: manager.name.clone(),
            operation: manager.operation.to_owned(),
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            time: generate::now(),
            fields,
        }),
    }
}

/// Notes a change that was no apply: whoever changes a field owns it alone.
pub fn track(resource: &Resource, old: &Value, new: &mut Value, manager: &Manager) {
    let mut entries = match new.pointer("/metadata/managedFields").and_then(Value::as_array) {
        // An empty list, or one with an empty entry, starts anew.
        Some(given) if given.iter().all(|entry| entry.as_object().is_some_and(serde_json::Map::is_empty)) => Vec::new(),
        Some(_) => read(new),
        None => read(old),
    };
    let (changed, removed) = FieldSet::changes(old, new, Shape::of(resource));
    if !changed.is_empty() || !removed.is_empty() {
        let mut own = FieldSet::default();
        for entry in &mut entries {
            let taken = !entry.is(manager);
            if taken {
                entry.fields = entry.fields.without(&changed);
            }
            entry.fields = entry.fields.without(&removed);
            if !taken {
                own = entry.fields.clone();
            }
        }
        own.union(&changed);
        assign(&mut entries, manager, own);
    }
    write(new, &entries);
}
