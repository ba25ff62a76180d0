//! Replacing objects, and what follows from any change of one.

use std::sync::Arc;

use serde_json::Value;

use super::metadata::{self, text};
use super::{Target, WriteOptions, Written, decode, strategy};
use crate::cluster::State;
use crate::error::{ApiError, FieldError, Result};
use crate::managed::{self, Manager};

impl State {
    /// Replaces an object, or its status.
    pub fn update(&mut self, target: &Target, mut object: Value, options: &WriteOptions) -> Result<Written> {
        let resource = &target.resource;
        decode::identify(resource, &mut object)?;
        let name = text(&object, "name").to_owned();
        if name != target.name {
            return Err(metadata::wrong_name(&name, &target.name));
        }
        metadata::place(target, &mut object)?;
        let live = self.live(target)?;
        self.check_version(target, &live, &object, resource.unconditional)?;
        let warnings = decode::decode(resource, &mut object, options.validation)?;
        let manager = options.manager(target, "Update");
        let object = self.settle(target, &live, object, options, Some(&manager))?;
        Ok(Written { object, created: false, warnings })
    }

    /// Whether a change was made to the object as it is.
    pub(super) fn check_version(&self, target: &Target, live: &Value, object: &Value, may_omit: bool) -> Result<()> {
        let resource = &target.resource;
        let (uid, live_uid) = (text(object, "uid"), text(live, "uid"));
        if !uid.is_empty() && uid != live_uid {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}");
            return Err(ApiError::conflict(resource, &target.name, &why));
        }
        match text(object, "resourceVersion") {
            "" | "0" if may_omit => Ok(()),
            "" | "0" => {
                let why = "must be specified for an update";
                let error = FieldError::invalid("metadata.resourceVersion", &Value::from(0), why);
                Err(ApiError::invalid(resource, &target.name, &[error]))
            }
            version if version == text(live, "resourceVersion") => Ok(()),
            _ => Err(ApiError::stale(resource, &target.name)),
        }
    }

    /// Makes a changed object valid and stores it. With a manager the change is noted as
    /// that manager's; without, `managedFields` are right already.
    pub(super) fn settle(
        &mut self,
        target: &Target,
        live: &Arc<Value>,
        new: Value,
        options: &WriteOptions,
        manager: Option<&Manager>,
    ) -> Result<Value> {
        let resource = &target.resource;
        let mut new = restrict(target, live, new);
        metadata::keep(live, &mut new);
        let mut errors = Vec::new();
        strategy::change(resource, live, &mut new, &mut errors);
        check_finalizers(live, &new, &mut errors);
        errors.extend(decode::check_schema(resource, &new));
        errors.extend(strategy::validate(resource, &new));
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &target.name, &errors));
        }
        metadata::count(resource, live, &mut new);
        if let Some(manager) = manager {
            managed::track(resource, live, &mut new, manager);
        }
        if options.dry_run || metadata::same(live, &new) {
            let unchanged = metadata::same(live, &new);
            return Ok(decode::encode(resource, if unchanged { live } else { &new }));
        }
        let stored = self.save(resource, target.key(), new);
        if may_go(&stored) {
            self.erase(resource, &target.key());
        }
        Ok(decode::encode(resource, &stored))
    }
}

/// Takes from a change only what the path of the request lets it change.
fn restrict(target: &Target, live: &Value, mut new: Value) -> Value {
    let resource = &target.resource;
    if target.subresource == "status" {
        let mut result = live.clone();
        match new.get("status") {
            Some(status) => result["status"] = status.clone(),
            None => {
                if let Some(map) = result.as_object_mut() {
                    map.remove("status");
                }
            }
        }
        // The status of a built-in kind may bring labels and annotations with it.
        if resource.custom.is_none() {
            result["metadata"] = new["metadata"].take();
        } else if let Some(managers) = new["metadata"].get("managedFields") {
            result["metadata"]["managedFields"] = managers.clone();
        }
        return result;
    }
    if let (true, Some(map)) = (resource.status, new.as_object_mut()) {
        match live.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.remove("status"),
        };
    }
    new
}

fn check_finalizers(live: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let added = metadata::finalizers(new).iter().any(|finalizer| !metadata::finalizers(live).contains(finalizer));
    if metadata::deleted(live) && added {
        let why = "no new finalizers can be added if the object is being deleted";
        errors.push(FieldError::forbidden("metadata.finalizers", why));
    }
}

/// Whether nothing keeps a deleted object any more.
fn may_go(object: &Value) -> bool {
    let grace = object["metadata"].get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    metadata::deleted(object) && metadata::finalizers(object).is_empty() && grace == 0 && object["kind"] != "Namespace"
}
