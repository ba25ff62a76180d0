//! Authorization by the roles and bindings that are stored.

use serde_json::Value;

use crate::auth::Identity;
use crate::cluster::State;
use crate::resource::Collection;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, …
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// Set instead of a resource for all other paths.
    pub path: Option<String>,
}

/// Why it is allowed; none if it is not.
pub fn allowed(state: &State, who: &Identity, what: &Attributes) -> Option<String> {
    if who.groups.iter().any(|group| group == "system:masters") {
        return Some(String::new());
    }
    bindings(state, "clusterrolebindings", "").chain(
        // Rules of a namespace count for what is in it.
        bindings(state, "rolebindings", &what.namespace).filter(|_| !what.namespace.is_empty() && what.path.is_none()),
    )
    .find_map(|(namespace, binding)| {
        let subject = subjects(binding).find(|subject| is_subject(subject, namespace, who))?;
        let role = role(state, binding, namespace)?;
        let permits = role.get("rules").and_then(Value::as_array).is_some_and(|rules| rules.iter().any(|rule| permits(rule, what)));
        permits.then(|| reason(binding, namespace, subject))
    })
}

fn bindings<'s>(state: &'s State, plural: &str, namespace: &'s str) -> impl Iterator<Item = (&'s str, &'s Value)> {
    let collection = Collection { group: GROUP.to_owned(), plural: plural.to_owned() };
    let objects: Vec<_> = state.store.objects(&collection).filter(|(key, _)| key.0 == namespace).collect();
    objects.into_iter().map(|(key, object)| (key.0.as_str(), &**object))
}

fn subjects(binding: &Value) -> impl Iterator<Item = &Value> {
    binding.get("subjects").and_then(Value::as_array).into_iter().flatten()
}

fn is_subject(subject: &Value, namespace: &str, who: &Identity) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => who.user == name,
        Some("Group") => who.groups.iter().any(|group| group == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(namespace);
            who.user == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn role<'s>(state: &'s State, binding: &Value, namespace: &str) -> Option<&'s Value> {
    let name = binding["roleRef"]["name"].as_str()?.to_owned();
    let (plural, namespace) = match binding["roleRef"]["kind"].as_str()? {
        "Role" => ("roles", namespace),
        "ClusterRole" => ("clusterroles", ""),
        _ => return None,
    };
    let collection = Collection { group: GROUP.to_owned(), plural: plural.to_owned() };
    state.store.get(&collection, &(namespace.to_owned(), name)).map(|role| &**role)
}

fn permits(rule: &Value, what: &Attributes) -> bool {
    let has = |field: &str, fits: &dyn Fn(&str) -> bool| {
        rule.get(field).and_then(Value::as_array).is_some_and(|list| list.iter().filter_map(Value::as_str).any(fits))
    };
    if !has("verbs", &|verb| verb == "*" || verb == what.verb) {
        return false;
    }
    if let Some(path) = &what.path {
        return has("nonResourceURLs", &|known| {
            known == "*" || known == path || known.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
        });
    }
    let full = if what.subresource.is_empty() { what.resource.clone() } else { format!("{}/{}", what.resource, what.subresource) };
    let any_of = |known: &str| !what.subresource.is_empty() && known.strip_prefix("*/") == Some(what.subresource.as_str());
    let named = rule.get("resourceNames").and_then(Value::as_array).filter(|names| !names.is_empty());
    has("apiGroups", &|group| group == "*" || group == what.group)
        && has("resources", &|known| known == "*" || known == full || any_of(known))
        && named.is_none_or(|names| names.iter().any(|name| name == what.name.as_str()))
}

fn reason(binding: &Value, namespace: &str, subject: &Value) -> String {
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    let (kind, full) = if namespace.is_empty() {
        ("ClusterRoleBinding", name.to_owned())
    } else {
        ("RoleBinding", format!("{name}/{namespace}"))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let subject_name = match subject["namespace"].as_str() {
        Some(namespace) => format!("{}/{namespace}", text(&subject["name"])),
        None => text(&subject["name"]),
    };
    let reference = &binding["roleRef"];
    format!(
        "RBAC: allowed by {kind} \"{full}\" of {} \"{}\" to {} \"{subject_name}\"",
        text(&reference["kind"]),
        text(&reference["name"]),
        text(&subject["kind"])
    )
}
