//! Deleting objects: finalizers and grace delay the end, owners take their dependents
//! with them, a namespace and a definition take what is in them.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::list::ListOptions;
use super::metadata::{self, text};
use super::{Target, decode};
use crate::cluster::{State, owners};
use crate::error::{ApiError, Result};
use crate::generate;
use crate::resource::{Collection, Resource};
use crate::store::Key;

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Nothing is deleted.
    pub dry_run: bool,
    /// The uid that the object has to have.
    pub uid: Option<String>,
    /// The resourceVersion that it has to have.
    pub resource_version: Option<String>,
    /// How long a pod may take.
    pub grace_seconds: Option<i64>,
    /// Whether dependents stay.
    pub orphan: bool,
}

/// What became of an object.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone; the answer is a `Status`.
    Gone(Value),
    /// It waits for its end, or is of a kind that is returned when it goes.
    Object(Value),
}

impl State {
    /// Deletes an object.
    pub fn delete(&mut self, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        let resource = Arc::clone(&target.resource);
        let live = self.live(target)?;
        check_preconditions(target, &live, options)?;
        let grace = self.grace(&resource, &live, options);
        let first_time = !metadata::deleted(&live);
        let held = !metadata::finalizers(&live).is_empty() || grace > 0;
        let container = resource.is("", "namespaces");
        if options.dry_run {
            return Ok(answer(&resource, &live, held || container));
        }
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.erase_instances(&live);
        }
        if !held && !container {
            let last = self.erase_with(&resource, &target.key(), options.orphan).unwrap_or(live);
            return Ok(answer(&resource, &last, false));
        }
        let shortened = live["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some_and(|known| grace < known);
        let mut marked = live;
        if first_time || shortened {
            let mut object = (*marked).clone();
            let end = OffsetDateTime::now_utc() + Duration::seconds(grace);
            object["metadata"]["deletionTimestamp"] = Value::from(generate::timestamp(end));
            object["metadata"]["deletionGracePeriodSeconds"] = Value::from(grace);
            if first_time {
                metadata::raise(&mut object);
            }
            if container {
                object["status"]["phase"] = json!("Terminating");
            }
            marked = self.save(&resource, target.key(), object);
        }
        if container {
            self.clear_namespace(&target.name);
        }
        Ok(answer(&resource, &marked, true))
    }

    /// Deletes what is selected, and returns it.
    pub fn delete_collection(&mut self, target: &Target, list: &ListOptions, options: &DeleteOptions) -> Result<Value> {
        let found = self.list(target, list)?;
        let mut items = Vec::new();
        for item in &found.items {
            let target = Target { name: text(item, "name").to_owned(), namespace: text(item, "namespace").to_owned(), ..target.clone() };
            self.delete(&target, options)?;
            items.push(decode::encode(&target.resource, item));
        }
        let resource = &target.resource;
        Ok(json!({
            "apiVersion": resource.api_version(), "kind": resource.list_kind,
            "metadata": {"resourceVersion": self.store.revision().to_string()}, "items": items,
        }))
    }

    /// How long a pod may take until its node has to confirm its end; zero for all else.
    fn grace(&self, resource: &Resource, live: &Value, options: &DeleteOptions) -> i64 {
        let running = live["spec"]["nodeName"].is_string() && !matches!(live["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if !resource.is("", "pods") || !running || !self.graceful_pods {
            return 0;
        }
        let default = live["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let wanted = options.grace_seconds.unwrap_or(default).max(0);
        match live["metadata"]["deletionGracePeriodSeconds"].as_i64() {
            Some(known) => wanted.min(known),
            None => wanted,
        }
    }

    /// Removes an object and what depends on it.
    pub(super) fn erase(&mut self, resource: &Resource, key: &Key) {
        self.erase_with(resource, key, false);
    }

    fn erase_with(&mut self, resource: &Resource, key: &Key, orphan: bool) -> Option<Arc<Value>> {
        let last = self.store.remove(&resource.collection, key)?;
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            let (group, plural) = last["spec"]["group"].as_str().zip(last["spec"]["names"]["plural"].as_str())?;
            self.registry.remove(group, plural);
        }
        for (collection, dependent) in self.dependents.remove(text(&last, "uid")).unwrap_or_default() {
            self.release(&collection, &dependent, text(&last, "uid"), orphan);
        }
        self.finish_namespace(&key.0);
        Some(last)
    }

    /// An owner is gone: a dependent without another one goes too.
    fn release(&mut self, collection: &Collection, key: &Key, owner: &str, orphan: bool) {
        let Some(object) = self.store.get(collection, key).cloned() else { return };
        let Some(resource) = self.registry.of_collection(collection) else { return };
        let known = owners(&object);
        if !known.iter().any(|known| known == owner) {
            return;
        }
        let target = Target { resource: Arc::clone(&resource), namespace: key.0.clone(), name: key.1.clone(), subresource: String::new() };
        if known.len() == 1 && !orphan {
            // A missing object is as good as a deleted one.
            drop(self.delete(&target, &DeleteOptions::default()));
            return;
        }
        let mut object = (*object).clone();
        if let Some(list) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) {
            list.retain(|reference| reference["uid"] != owner);
        }
        self.save(&resource, key.clone(), object);
    }

    fn erase_instances(&mut self, definition: &Value) {
        let name = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let collection = Collection { group: name("/spec/group"), plural: name("/spec/names/plural") };
        let Some(resource) = self.registry.of_collection(&collection) else { return };
        let keys: Vec<Key> = self.store.objects(&collection).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.erase(&resource, &key);
        }
    }

    fn clear_namespace(&mut self, namespace: &str) {
        let resources: Vec<Arc<Resource>> = self.registry.iter().filter(|resource| resource.namespaced).cloned().collect();
        for resource in resources {
            let keys: Vec<Key> = self.store.objects(&resource.collection).map(|(key, _)| key.clone()).filter(|key| key.0 == namespace).collect();
            for (namespace, name) in keys {
                let target = Target { resource: Arc::clone(&resource), namespace, name, subresource: String::new() };
                drop(self.delete(&target, &DeleteOptions::default()));
            }
        }
        self.finish_namespace(namespace);
    }

    /// A namespace that waits for its end goes with the last object in it.
    fn finish_namespace(&mut self, namespace: &str) {
        let namespaces = Collection { group: String::new(), plural: "namespaces".to_owned() };
        let key = (String::new(), namespace.to_owned());
        let waits = self.store.get(&namespaces, &key).is_some_and(|found| metadata::deleted(found) && metadata::finalizers(found).is_empty());
        if namespace.is_empty() || !waits {
            return;
        }
        let occupied = self.store.collections().any(|collection| self.store.objects(collection).any(|(key, _)| key.0 == namespace));
        if !occupied {
            self.store.remove(&namespaces, &key);
        }
    }
}

fn check_preconditions(target: &Target, live: &Value, options: &DeleteOptions) -> Result<()> {
    for (field, wanted) in [("uid", &options.uid), ("resourceVersion", &options.resource_version)] {
        let found = text(live, field);
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let what = if field == "uid" { "UID" } else { "ResourceVersion" };
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(ApiError::conflict(&target.resource, &target.name, &why));
        }
    }
    Ok(())
}

fn answer(resource: &Resource, object: &Value, pending: bool) -> Deleted {
    if pending || (resource.group.is_empty() && matches!(resource.plural.as_str(), "pods" | "services" | "serviceaccounts")) {
        return Deleted::Object(decode::encode(resource, object));
    }
    Deleted::Gone(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": text(object, "name"), "group": resource.group, "kind": resource.plural, "uid": text(object, "uid")},
    }))
}
