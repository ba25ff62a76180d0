//! What can be served: one [`Resource`] per group, version and plural name, and the table
//! of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::builtin;

/// Under which name objects are stored; the versions of one kind share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural name.
    pub plural: String,
}

/// One column of `kubectl get`.
#[derive(Debug, Clone)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Explanation.
    pub description: String,
    /// Zero is always shown, more only with `-o wide`.
    pub priority: i64,
    /// Where the value is.
    pub path: String,
}

/// What a custom resource adds.
#[derive(Debug, Clone)]
pub struct Custom {
    /// `openAPIV3Schema` of the version.
    pub schema: Value,
    /// Printer columns of the version.
    pub columns: Vec<Column>,
    /// JSON paths of its selectable fields.
    pub selectable: Vec<String>,
    /// The version that is stored.
    pub storage_version: String,
}

/// A kind of object under one version of its API.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else about the kind"
)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of its lists.
    pub list_kind: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names that kubectl takes.
    pub short_names: Vec<String>,
    /// Categories that kubectl takes (`all`).
    pub categories: Vec<String>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a resource of its own.
    pub status: bool,
    /// Whether `metadata.generation` is counted.
    pub generation: bool,
    /// Whether an update may leave out the resourceVersion.
    pub unconditional: bool,
    /// Whether it can only be created (a review), and is not stored.
    pub create_only: bool,
    /// Where its objects are stored.
    pub collection: Collection,
    /// Set for a custom resource.
    pub custom: Option<Custom>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What may be done with it.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.create_only {
            &["create"]
        } else {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        }
    }

    /// Names and verbs of its subresources, with the kind that they take.
    pub fn subresources(&self) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
        let mut found: Vec<(&str, &str, &[&str])> = Vec::new();
        match (self.group.as_str(), self.plural.as_str()) {
            ("", "pods") => {
                found.push(("binding", "Binding", &["create"]));
                found.push(("eviction", "Eviction", &["create"]));
            }
            ("", "serviceaccounts") => found.push(("token", "TokenRequest", &["create"])),
            _ => {}
        }
        if self.status {
            found.push(("status", "", &["get", "patch", "update"]));
        }
        found
    }

    /// Whether this is the built-in kind with that group and plural name.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// `v1` or `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Everything that is served, by group, version and plural name.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Default for Registry {
    fn default() -> Self {
        let mut registry = Self {
            resources: BTreeMap::new(),
        };
        for resource in builtin::resources() {
            registry.insert(resource);
        }
        registry
    }
}

impl Registry {
    /// Serves one more resource, or another form of it.
    pub(crate) fn insert(&mut self, resource: Resource) {
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.resources.insert(key, Arc::new(resource));
    }

    /// Stops serving all versions of a resource.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources
            .retain(|(g, _, p), _| g != group || p != plural);
    }

    /// The resource of a path.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// Any version of a stored collection.
    pub(crate) fn of_collection(&self, collection: &Collection) -> Option<Arc<Resource>> {
        self.iter()
            .find(|resource| &resource.collection == collection)
            .cloned()
    }

    /// All of them, in the order of group, version and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// Groups with their versions, the preferred one first; the core group is left out.
    pub(crate) fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (group, version, _) in self.resources.keys().filter(|key| !key.0.is_empty()) {
            let versions = groups.entry(group.clone()).or_default();
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups
    }
}

/// The order of versions: released ones before betas before alphas, higher before lower.
fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, suffix) = rest.split_at(end);
    let major = major.parse().unwrap_or(0);
    if let Some(minor) = suffix.strip_prefix("beta") {
        (2, major, minor.parse().unwrap_or(0))
    } else if let Some(minor) = suffix.strip_prefix("alpha") {
        (1, major, minor.parse().unwrap_or(0))
    } else {
        (3, major, 0)
    }
}
