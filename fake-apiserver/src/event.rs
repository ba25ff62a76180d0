//! Events have two forms, the core group's and `events.k8s.io`'s; the core form is stored.

use serde_json::{Map, Value};

use crate::resource::Resource;

/// Names in `events.k8s.io`, and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn concerns(resource: &Resource) -> bool {
    resource.is("events.k8s.io", "events")
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// Brings an event into the form that is stored.
pub fn store(resource: &Resource, object: &mut Value) {
    if let (true, Some(map)) = (concerns(resource), object.as_object_mut()) {
        for (new, core) in NAMES {
            rename(map, new, core);
        }
        map.insert("apiVersion".to_owned(), Value::from("v1"));
    }
}

/// Brings a stored event into the form of the request.
pub fn present(resource: &Resource, object: &mut Value) {
    if let (true, Some(map)) = (concerns(resource), object.as_object_mut()) {
        for (new, core) in NAMES {
            rename(map, core, new);
        }
    }
}
