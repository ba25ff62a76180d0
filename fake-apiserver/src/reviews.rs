//! Requests that are answered and not stored: reviews, tokens, bindings and evictions.

use serde_json::{Value, json};

use crate::api::{DeleteOptions, Deleted, Target, WriteOptions};
use crate::auth::{API_AUDIENCE, Identity, Token};
use crate::cluster::State;
use crate::error::{ApiError, Result};
use crate::generate;
use crate::rbac::{self, Attributes};

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn describe(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = Value::from(identity.uid.as_str());
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    user
}

/// Answers a review.
pub fn review(state: &State, target: &Target, mut body: Value, who: &Identity) -> Result<Value> {
    body["apiVersion"] = Value::from(target.resource.api_version());
    body["kind"] = Value::from(target.resource.kind.as_str());
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body = crate::builtin::typed(&target.resource, body).map_err(ApiError::bad_request)?;
    body["status"] = match target.resource.kind.as_str() {
        "TokenReview" => token_review(state, &body),
        "SelfSubjectReview" => json!({"userInfo": describe(who)}),
        "SelfSubjectAccessReview" => access(state, who, &body["spec"])?,
        _ => {
            let namespace = text(&body, "/spec/resourceAttributes/namespace");
            if target.resource.namespaced && namespace != target.namespace {
                return Err(ApiError::bad_request("spec.resourceAttributes.namespace must match metadata.namespace"));
            }
            let spec = &body["spec"];
            let extra = spec.get("extra").and_then(Value::as_object);
            let subject = Identity {
                user: text(spec, "/user"),
                uid: text(spec, "/uid"),
                groups: texts(&spec["groups"]),
                extra: extra.into_iter().flatten().map(|(name, values)| (name.clone(), texts(values))).collect(),
            };
            if subject.user.is_empty() && subject.groups.is_empty() {
                return Err(ApiError::bad_request("at least one of user or group must be specified"));
            }
            access(state, &subject, spec)?
        }
    };
    Ok(body)
}

fn token_review(state: &State, body: &Value) -> Value {
    let mut wanted = texts(&body["spec"]["audiences"]);
    if wanted.is_empty() {
        wanted.push(API_AUDIENCE.to_owned());
    }
    match state.tokens.check(&text(body, "/spec/token"), &wanted) {
        Some((identity, audiences)) => json!({"authenticated": true, "user": describe(identity), "audiences": audiences}),
        None => json!({"authenticated": false, "user": {}, "error": "[invalid bearer token, token is unknown or for another audience]"}),
    }
}

fn access(state: &State, subject: &Identity, spec: &Value) -> Result<Value> {
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    let what = match (resource, path) {
        (Some(resource), None) => Attributes {
            verb: text(resource, "/verb"),
            group: text(resource, "/group"),
            resource: text(resource, "/resource"),
            subresource: text(resource, "/subresource"),
            namespace: text(resource, "/namespace"),
            name: text(resource, "/name"),
            path: None,
        },
        (None, Some(path)) => {
            Attributes { verb: text(path, "/verb"), path: Some(text(path, "/path")), ..Attributes::default() }
        }
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(ApiError::bad_request(why));
        }
    };
    Ok(match rbac::allowed(state, subject, &what) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    })
}

/// Handles a `POST` to a subresource.
pub fn subresource(state: &mut State, target: &Target, body: &Value, options: &WriteOptions) -> Result<Value> {
    let (plural, subresource) = (target.resource.plural.as_str(), target.subresource.as_str());
    match (target.resource.group.as_str(), plural, subresource) {
        ("", "serviceaccounts", "token") => issue_token(state, target, body),
        ("", "pods", "binding") => bind(state, target, body, options),
        ("", "pods", "eviction") => {
            let grace = body.pointer("/deleteOptions/gracePeriodSeconds").and_then(Value::as_i64);
            let delete = DeleteOptions { dry_run: options.dry_run, grace_seconds: grace, ..DeleteOptions::default() };
            let target = Target { subresource: String::new(), ..target.clone() };
            let (Deleted::Gone(_) | Deleted::Object(_)) = state.delete(&target, &delete)?;
            Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// A token for a service account, bound to a pod if the request says so.
fn issue_token(state: &mut State, target: &Target, body: &Value) -> Result<Value> {
    let account = state.live(&Target { subresource: String::new(), ..target.clone() })?;
    let mut audiences = texts(&body["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(API_AUDIENCE.to_owned());
    }
    let mut identity = Identity::service_account(&target.namespace, &target.name);
    identity.uid = text(&account, "/metadata/uid");
    if body["spec"]["boundObjectRef"]["kind"] == "Pod" {
        let name = text(body, "/spec/boundObjectRef/name");
        let Some(resource) = state.registry.find("", "v1", "pods") else { return Err(ApiError::no_such_path()) };
        let pod = state.live(&Target { resource, namespace: target.namespace.clone(), name: name.clone(), subresource: String::new() })?;
        identity = identity.bound_to(&name, &text(&pod, "/metadata/uid"), &text(&pod, "/spec/nodeName"));
    }
    let token = generate::token();
    let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    let end = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    state.tokens.insert(&token, Token { identity, audiences: audiences.clone() });
    Ok(json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": target.namespace},
        "spec": {"audiences": audiences, "expirationSeconds": seconds},
        "status": {"token": token, "expirationTimestamp": generate::timestamp(end)},
    }))
}

/// Puts a pod on a node, as the scheduler does.
fn bind(state: &mut State, target: &Target, body: &Value, options: &WriteOptions) -> Result<Value> {
    let target = Target { subresource: String::new(), ..target.clone() };
    let live = state.live(&target)?;
    if let Some(node) = live["spec"]["nodeName"].as_str() {
        let why = format!("pod {} is already assigned to node \"{node}\"", target.name);
        return Err(ApiError::conflict(&target.resource, &target.name, &why));
    }
    let mut pod = (*live).clone();
    pod["spec"]["nodeName"] = body["target"]["name"].clone();
    pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": generate::now()}]);
    if !options.dry_run {
        state.save(&target.resource, target.key(), pod);
    }
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}
