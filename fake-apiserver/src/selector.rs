//! Label and field selectors.

use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::jsonpath;
use crate::resource::Resource;

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

impl Selector {
    /// Reads the parameters of a request.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self> {
        let labels = split_outside_brackets(labels)
            .into_iter()
            .map(|part| requirement(part).ok_or_else(|| unreadable("label", part)))
            .collect::<Result<_>>()?;
        let fields = fields
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| field_requirement(resource, part))
            .collect::<Result<_>>()?;
        Ok(Self { labels, fields })
    }

    /// About one object only.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.fields.push(FieldRequirement { path: "metadata.name".to_owned(), value: name.to_owned(), equal: true });
        self
    }

    /// Whether it is about this object.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|requirement| label_matches(requirement, object))
            && self.fields.iter().all(|requirement| {
                (field_value(object, &requirement.path) == requirement.value) == requirement.equal
            })
    }
}

fn unreadable(what: &str, part: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse {what} requirement: \"{part}\""))
}

/// Splits at commas, except for those between parentheses.
fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return label_key(key).map(Requirement::Missing);
    }
    if let Some(inner) = part.strip_suffix(')') {
        let (head, values) = inner.split_once('(')?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        let key = label_key(key)?;
        return match operator {
            "in" => Some(Requirement::In(key, values)),
            "notin" => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = part.split_once(operator) {
            let (key, values) = (label_key(key)?, vec![value.trim().to_owned()]);
            return Some(if equal { Requirement::In(key, values) } else { Requirement::NotIn(key, values) });
        }
    }
    label_key(part).map(Requirement::Exists)
}

fn label_key(text: &str) -> Option<String> {
    let text = text.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    (!text.is_empty() && text.chars().all(known)).then(|| text.to_owned())
}

fn label_matches(requirement: &Requirement, object: &Value) -> bool {
    let label = |key: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(key)?.as_str());
    match requirement {
        Requirement::In(key, values) => label(key).is_some_and(|value| values.iter().any(|known| known == value)),
        // A missing label is different from every value.
        Requirement::NotIn(key, values) => !label(key).is_some_and(|value| values.iter().any(|known| known == value)),
        Requirement::Exists(key) => label(key).is_some(),
        Requirement::Missing(key) => label(key).is_none(),
    }
}

fn field_requirement(resource: &Resource, part: &str) -> Result<FieldRequirement> {
    let (path, value, equal) = [("!=", false), ("==", true), ("=", true)]
        .into_iter()
        .find_map(|(operator, equal)| part.split_once(operator).map(|(path, value)| (path, value, equal)))
        .ok_or_else(|| ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")))?;
    if !selectable(resource, path) {
        let message = format!("field label not supported: {path}");
        return Err(ApiError::bad_request(message));
    }
    Ok(FieldRequirement { path: path.to_owned(), value: value.to_owned(), equal })
}

fn selectable(resource: &Resource, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    if let Some(custom) = &resource.custom {
        return custom.selectable.iter().any(|known| known.trim_start_matches('.') == path);
    }
    let known: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingController",
            "type",
        ],
        _ => &[],
    };
    known.contains(&path)
}

fn field_value(object: &Value, path: &str) -> String {
    // An event's source may be in either of its two fields.
    let path = if path == "source" { "source.component" } else { path };
    match jsonpath::find(object, &format!(".{path}")).first() {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => {
            if matches!(path, "spec.unschedulable" | "spec.hostNetwork") { "false".to_owned() } else { String::new() }
        }
        Some(other) => other.to_string(),
    }
}
