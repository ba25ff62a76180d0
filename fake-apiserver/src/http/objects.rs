//! Requests for objects.

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::stream::{self, Answer};
use super::{Call, Service, whole};
use crate::api::{Deleted, Target, Written, encode};
use crate::error::{ApiError, Result};
use crate::patch::Patch;
use crate::present::Form;
use crate::reviews;
use crate::watch::{Watch, WatchOptions};

const WARNING: HeaderName = HeaderName::from_static("warning");

impl Service {
    pub(super) fn object(&self, call: &Call, target: &Target) -> Result<Response<Answer>> {
        let form = Form::negotiate(call.header(&ACCEPT), call.query.include())?;
        let cluster = &self.handle.cluster;
        if target.resource.create_only && call.verb != "create" {
            return Err(ApiError::method_not_allowed());
        }
        match call.verb {
            "get" => {
                let object = cluster.read().get(target)?;
                Ok(whole(StatusCode::OK, &form.show(&target.resource, object, true)))
            }
            "list" => self.list(call, target, form),
            "watch" => self.watch(call, target, form),
            "create" => self.create(call, target, form),
            "update" => {
                let options = call.query.write(call.header(&USER_AGENT), false)?;
                let body = body(call)?;
                Ok(written(&cluster.write(|state| state.update(target, body, &options))?, target, form))
            }
            "patch" => {
                let patch = patch(call)?;
                let options = call.query.write(call.header(&USER_AGENT), matches!(patch, Patch::Apply(_)))?;
                Ok(written(&cluster.write(|state| state.patch(target, patch, &options))?, target, form))
            }
            "delete" | "deletecollection" => self.delete(call, target),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn list(&self, call: &Call, target: &Target, form: Form) -> Result<Response<Answer>> {
        let options = call.query.list(&target.resource)?;
        let list = self.handle.cluster.read().list(target, &options)?;
        let mut metadata = json!({"resourceVersion": list.revision.to_string()});
        if !list.continue_token.is_empty() {
            metadata["continue"] = Value::from(list.continue_token.as_str());
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = Value::from(remaining);
        }
        let items = list.items.iter().map(|object| encode(&target.resource, object)).collect();
        Ok(whole(StatusCode::OK, &form.list(&target.resource, items, metadata)))
    }

    fn watch(&self, call: &Call, target: &Target, form: Form) -> Result<Response<Answer>> {
        let mut target = target.clone();
        let mut selector = call.query.selector(&target.resource)?;
        if !target.name.is_empty() {
            selector = selector.with_name(&target.name);
            target.name.clear();
        }
        let options = WatchOptions {
            selector,
            resource_version: call.query.resource_version().to_owned(),
            bookmarks: call.query.bookmarks(),
            initial_events: call.query.initial_events(),
            form,
        };
        let started = Watch::start(&self.handle.cluster.read(), target, options);
        let (watch, first) = started?;
        let mut response =
            Response::new(stream::serve(&self.handle, watch, first, call.query.timeout(), self.bookmark_interval));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn create(&self, call: &Call, target: &Target, form: Form) -> Result<Response<Answer>> {
        let body = body(call)?;
        let cluster = &self.handle.cluster;
        if target.resource.create_only {
            let answer = reviews::review(&cluster.read(), target, body, &call.who)?;
            return Ok(whole(StatusCode::CREATED, &answer));
        }
        let options = call.query.write(call.header(&USER_AGENT), false)?;
        if !target.subresource.is_empty() {
            let answer = cluster.write(|state| reviews::subresource(state, target, &body, &options))?;
            return Ok(whole(StatusCode::CREATED, &answer));
        }
        if target.resource.namespaced && target.namespace.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        Ok(written(&cluster.write(|state| state.create(target, body, &options))?, target, form))
    }

    fn delete(&self, call: &Call, target: &Target) -> Result<Response<Answer>> {
        let body = if call.body.is_empty() { Value::Null } else { body(call)? };
        let options = call.query.delete(&body)?;
        if !target.subresource.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if call.verb == "deletecollection" {
            if target.resource.namespaced && target.namespace.is_empty() {
                return Err(ApiError::method_not_allowed());
            }
            let list = call.query.list(&target.resource)?;
            let deleted = self.handle.cluster.write(|state| state.delete_collection(target, &list, &options))?;
            return Ok(whole(StatusCode::OK, &deleted));
        }
        let (Deleted::Gone(answer) | Deleted::Object(answer)) =
            self.handle.cluster.write(|state| state.delete(target, &options))?;
        Ok(whole(StatusCode::OK, &answer))
    }
}

fn media_type(call: &Call) -> &str {
    call.header(&CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("the object provided is unrecognized ({what}): {error}"))
}

/// The body as a JSON value.
fn body(call: &Call) -> Result<Value> {
    match media_type(call) {
        "" | "application/json" => serde_json::from_slice(&call.body).map_err(|error| unreadable("JSON", &error)),
        "application/yaml" => yaml(&call.body),
        other => Err(ApiError::unsupported_media(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, and it was {other}"
        ))),
    }
}

fn yaml(bytes: &[u8]) -> Result<Value> {
    // Every JSON document is YAML, and is read faster as what it is.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable("YAML", &error))?;
    serde_saphyr::from_str(text).map_err(|error| unreadable("YAML", &error))
}

fn patch(call: &Call) -> Result<Patch> {
    let json = || serde_json::from_slice(&call.body).map_err(|error| unreadable("JSON", &error));
    match media_type(call) {
        "application/merge-patch+json" => Ok(Patch::Merge(json()?)),
        "application/json-patch+json" => Ok(Patch::Json(json()?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(json()?)),
        "application/apply-patch+yaml" => Ok(Patch::Apply(yaml(&call.body)?)),
        other => Err(ApiError::unsupported_media(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
             application/strategic-merge-patch+json, and it was \"{other}\""
        ))),
    }
}

fn written(written: &Written, target: &Target, form: Form) -> Response<Answer> {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = whole(status, &form.show(&target.resource, written.object.clone(), true));
    for warning in &written.warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{}\"", warning.replace('"', "\\\""))) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}
