//! From a path to what the request is about.

use percent::decode;

use crate::api::Target;
use crate::error::{ApiError, Result};
use crate::rbac::Attributes;
use crate::resource::Registry;

/// What a path names.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// Objects.
    Object(Target),
    /// Anything else: discovery, health.
    Other,
}

mod percent {
    /// Reads percent-encoding.
    pub(super) fn decode(text: &str) -> String {
        let bytes = text.as_bytes();
        let (mut decoded, mut index) = (Vec::with_capacity(bytes.len()), 0);
        while index < bytes.len() {
            let hex = text.get(index + 1..index + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match (bytes[index], hex) {
                (b'%', Some(byte)) => {
                    decoded.push(byte);
                    index += 3;
                }
                (byte, _) => {
                    decoded.push(byte);
                    index += 1;
                }
            }
        }
        String::from_utf8_lossy(&decoded).into_owned()
    }
}

/// Finds what a path is about.
pub(super) fn route(registry: &Registry, path: &str) -> Result<Route> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Route::Other),
    };
    let (namespace, rest) = match rest {
        // What lies below a namespace, unless it is the namespace's own status.
        ["namespaces", namespace, plural, ..] if !(group.is_empty() && matches!(*plural, "status" | "finalize")) => {
            (*namespace, &rest[2..])
        }
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(ApiError::no_such_path()),
    };
    let resource = registry.find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    if resource.namespaced == namespace.is_empty() && (!name.is_empty() || !resource.namespaced) {
        return Err(ApiError::no_such_path());
    }
    if !subresource.is_empty() && !resource.subresources().iter().any(|(known, ..)| *known == subresource) {
        return Err(ApiError::no_such_path());
    }
    Ok(Route::Object(Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    }))
}

/// The verb of a request for objects.
pub(super) fn verb(method: &str, target: &Target, watch: bool) -> Option<&'static str> {
    let collection = target.name.is_empty();
    match (method, collection) {
        ("GET", _) if watch => Some("watch"),
        ("GET", true) => Some("list"),
        ("GET", false) => Some("get"),
        ("POST", true) => Some("create"),
        ("POST", false) if !target.subresource.is_empty() => Some("create"),
        ("PUT", false) => Some("update"),
        ("PATCH", false) => Some("patch"),
        ("DELETE", true) => Some("deletecollection"),
        ("DELETE", false) => Some("delete"),
        _ => None,
    }
}

/// What has to be allowed for a request.
pub(super) fn attributes(route: &Route, verb: &str, path: &str) -> Attributes {
    match route {
        Route::Object(target) => Attributes {
            verb: verb.to_owned(),
            group: target.resource.group.clone(),
            resource: target.resource.plural.clone(),
            subresource: target.subresource.clone(),
            // A namespace is in itself, as far as roles are concerned.
            namespace: if target.resource.is("", "namespaces") { target.name.clone() } else { target.namespace.clone() },
            name: target.name.clone(),
            path: None,
        },
        Route::Other => Attributes { verb: verb.to_owned(), path: Some(path.to_owned()), ..Attributes::default() },
    }
}
