//! Patching objects.

use serde_json::Value;

use super::metadata::{self, text};
use super::{FieldValidation, Target, WriteOptions, Written, decode};
use crate::builtin;
use crate::cluster::State;
use crate::error::{ApiError, FieldError, Result};
use crate::patch::{self, Patch};
use crate::resource::Resource;
use crate::schema;
use crate::shape::Shape;

impl State {
    /// Patches an object or its status; an apply may create it.
    pub(crate) fn patch(
        &mut self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written> {
        if let Patch::Apply(config) = patch {
            return self.apply(target, config, options);
        }
        let resource = &target.resource;
        let live = self.live(target)?;
        let mut object = decode::encode(resource, &live);
        match &patch {
            Patch::Merge(patch) => patch::merge(&mut object, patch),
            Patch::Json(patch) => patch::json(&mut object, patch)?,
            Patch::Strategic(_) if resource.custom.is_some() => {
                return Err(ApiError::unsupported_media(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ));
            }
            Patch::Strategic(patch) | Patch::Apply(patch) => {
                patch::strategic::merge(&mut object, patch, Shape::of(resource))?;
            }
        }
        decode::identify(resource, &mut object)?;
        if text(&object, "name") != target.name {
            return Err(metadata::wrong_name(text(&object, "name"), &target.name));
        }
        Self::check_version(target, &live, &object, true)?;
        let warnings = decode::decode(resource, &mut object, options.validation)?;
        let manager = options.manager(target, "Update");
        let object = self.settle(target, &live, object, options, Some(&manager))?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    fn apply(
        &mut self,
        target: &Target,
        mut config: Value,
        options: &WriteOptions,
    ) -> Result<Written> {
        let resource = &target.resource;
        let manager = options.manager(target, "Apply");
        if manager.name.is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            let message = format!(
                "PatchOptions.meta.k8s.io \"\" is invalid: {}: {}",
                error.field, error.message
            );
            return Err(ApiError::new(422, "Invalid", message));
        }
        decode::identify(resource, &mut config)?;
        if config["metadata"]
            .get("managedFields")
            .is_some_and(|managers| !managers.is_null())
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let named = text(&config, "name").to_owned();
        if !named.is_empty() && named != target.name {
            return Err(metadata::wrong_name(&named, &target.name));
        }
        metadata::place(target, &mut config)?;
        restrict(target, &mut config);
        let warnings = check_fields(resource, &mut config, options.validation)?;
        let shape = Shape::of(resource);

        let Ok(live) = self.live(target) else {
            if !text(&config, "resourceVersion").is_empty() || !text(&config, "uid").is_empty() {
                return Err(ApiError::stale(resource, &target.name));
            }
            if !target.subresource.is_empty() {
                return Err(ApiError::not_found(resource, &target.name));
            }
            let mut object =
                patch::apply::apply(&Value::Null, config, &manager, options.force, shape)?;
            decode::decode(resource, &mut object, FieldValidation::Ignore)?;
            let object = self.begin(target, object, |_, _| ())?;
            return self.finish(target, object, options, warnings);
        };
        check_uid(target, &live, &mut config)?;
        Self::check_version(target, &live, &config, true)?;
        let current = decode::encode(resource, &live);
        let mut object = patch::apply::apply(&current, config, &manager, options.force, shape)?;
        decode::decode(resource, &mut object, FieldValidation::Ignore)?;
        let object = self.settle(target, &live, object, options, None)?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }
}

/// Takes out of a configuration what its path does not let it apply.
fn restrict(target: &Target, config: &mut Value) {
    let Some(map) = config.as_object_mut() else {
        return;
    };
    if target.subresource == "status" {
        map.retain(|name, _| {
            matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
        });
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| {
                matches!(
                    name.as_str(),
                    "name" | "namespace" | "uid" | "resourceVersion"
                )
            });
        }
    } else if target.resource.status {
        map.remove("status");
    }
}

/// An apply is no precondition on the uid: another one is a change of the object, which is
/// refused, or, where only the status is written, passed over.
fn check_uid(target: &Target, live: &Value, config: &mut Value) -> Result<()> {
    let given = text(config, "uid").to_owned();
    if given.is_empty() || given == text(live, "uid") {
        return Ok(());
    }
    if target.subresource == "status" {
        if let Some(metadata) = config["metadata"].as_object_mut() {
            metadata.remove("uid");
        }
        return Ok(());
    }
    let error = FieldError::invalid("metadata.uid", &Value::from(given), "field is immutable");
    Err(ApiError::invalid(&target.resource, &target.name, &[error]))
}

/// A configuration may hold only part of an object, so its fields are checked, not their
/// presence.
fn check_fields(
    resource: &Resource,
    config: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    if let Some(custom) = &resource.custom {
        unknown = schema::prune(config, &custom.schema);
    } else {
        let typed = builtin::typed(resource, config.clone()).map_err(ApiError::bad_request)?;
        builtin::lost(config, &typed, "", &mut unknown);
    }
    let strict = resource.custom.is_none() || validation == FieldValidation::Strict;
    if let (Some(path), true) = (unknown.first(), strict) {
        return Err(ApiError::new(
            500,
            "InternalError",
            format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): .{path}: field not declared in schema",
                text(config, "namespace"),
                text(config, "name"),
                resource.api_version(),
                resource.kind
            ),
        ));
    }
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    Ok(unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect())
}
