//! Sets of fields, as `managedFields` keeps them (`FieldsV1`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::shape::{List, Shape};

/// A set of paths. An element of a path is written as in `FieldsV1`: `f:spec`,
/// `k:{"name":"a"}` or `v:"x"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// Metadata that the server alone sets, or that names the object; nobody owns it.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "generation",
    "selfLink",
    "managedFields",
];

impl FieldSet {
    /// The fields that an object has.
    pub fn of_object(object: &Value, shape: Shape<'_>) -> Self {
        Self::changes(&Value::Null, object, shape).0
    }

    /// The fields that differ or are new in `new`, and those that it no longer has.
    pub fn changes(old: &Value, new: &Value, shape: Shape<'_>) -> (Self, Self) {
        let (mut changed, mut removed) = (Self::default(), Self::default());
        let names: BTreeSet<&String> = old.as_object().into_iter().chain(new.as_object()).flat_map(Map::keys).collect();
        for name in names {
            let (old, new) = (old.get(name), new.get(name));
            let (child_changed, child_removed) = compare(old, new, shape.top(name));
            changed.insert(format!("f:{name}"), child_changed);
            removed.insert(format!("f:{name}"), child_removed);
        }
        changed.drop_unowned();
        removed.drop_unowned();
        (changed, removed)
    }

    fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    fn insert(&mut self, element: String, set: Self) {
        if !set.is_empty() {
            self.children.insert(element, set);
        }
    }

    fn drop_unowned(&mut self) {
        self.children.remove("f:apiVersion");
        self.children.remove("f:kind");
        if let Some(metadata) = self.children.get_mut("f:metadata") {
            metadata.member = false;
            for name in UNOWNED {
                metadata.children.remove(&format!("f:{name}"));
            }
            if metadata.is_empty() {
                self.children.remove("f:metadata");
            }
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// What is in either.
    pub fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, set) in &other.children {
            self.children.entry(element.clone()).or_default().union(set);
        }
    }

    /// What is in this one only.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs, true)
    }

    /// What is in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs, false)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool, keep_unmatched: bool) -> Self {
        let mut result = Self { member: keep(self.member, other.member), children: BTreeMap::new() };
        for (element, set) in &self.children {
            match other.children.get(element) {
                Some(theirs) => result.insert(element.clone(), set.combine(theirs, keep, keep_unmatched)),
                None if keep_unmatched => result.insert(element.clone(), set.clone()),
                None => {}
            }
        }
        result
    }

    /// Reads `fieldsV1`.
    pub fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        for (element, inner) in value.as_object().into_iter().flatten() {
            if element == "." {
                set.member = true;
            } else {
                let mut child = Self::from_json(inner);
                child.member |= child.children.is_empty();
                set.children.insert(element.clone(), child);
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, set) in &self.children {
            map.insert(element.clone(), set.to_json());
        }
        Value::Object(map)
    }

    /// The paths in it, as people read them.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (element, set) in &self.children {
            set.collect(&format!("{path}{}", readable(element)), found);
        }
    }

    /// Takes the fields of this set out of an object, except for what `keep` has.
    pub fn remove_from(&self, object: &mut Value, keep: &Self, shape: Shape<'_>) {
        for (element, set) in &self.children {
            if let Some(name) = element.strip_prefix("f:") {
                set.remove_field(object, name, keep.children.get(element), shape.top(name));
            }
        }
    }

    fn remove_field(&self, holder: &mut Value, name: &str, keep: Option<&Self>, shape: Shape<'_>) {
        let Some(map) = holder.as_object_mut() else { return };
        let Some(value) = map.get_mut(name) else { return };
        if self.take(value, keep, shape) {
            map.remove(name);
        }
    }

    /// Takes fields out of a value, and says whether the value itself has to go.
    fn take(&self, value: &mut Value, keep: Option<&Self>, shape: Shape<'_>) -> bool {
        let kept = keep.is_some_and(|keep| !keep.is_empty());
        if self.member && !kept {
            return true;
        }
        let none = Self::default();
        let keep = keep.unwrap_or(&none);
        match value {
            Value::Object(_) => {
                for (element, set) in &self.children {
                    if let Some(name) = element.strip_prefix("f:") {
                        set.remove_field(value, name, keep.children.get(element), shape.field(name));
                    }
                }
                !kept && value.as_object().is_some_and(Map::is_empty)
            }
            Value::Array(items) => {
                items.retain_mut(|item| {
                    let Some(element) = element(item, shape) else { return true };
                    let Some(set) = self.children.get(&element) else { return true };
                    !set.take(item, keep.children.get(&element), shape.items())
                });
                !kept && items.is_empty()
            }
            _ => false,
        }
    }
}

fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> (FieldSet, FieldSet) {
    match (old, new) {
        (None, None) => (FieldSet::default(), FieldSet::default()),
        (None, Some(new)) => (of(new, shape), FieldSet::default()),
        (Some(old), None) => {
            let mut removed = of(old, shape);
            removed.member = true;
            (FieldSet::default(), removed)
        }
        (Some(old), Some(new)) if old == new => (FieldSet::default(), FieldSet::default()),
        (Some(Value::Object(old)), Some(Value::Object(new))) if !shape.atomic_map() => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            pairwise(names.into_iter().map(|name| {
                (format!("f:{name}"), compare(old.get(name), new.get(name), shape.field(name)))
            }))
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if shape.list() != List::Atomic => {
            let find = |items: &[Value]| -> BTreeMap<String, Value> {
                items.iter().filter_map(|item| Some((element(item, shape)?, item.clone()))).collect()
            };
            let (old, new) = (find(old), find(new));
            let elements: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            pairwise(elements.into_iter().map(|element| {
                let (mut changed, removed) = compare(old.get(element), new.get(element), shape.items());
                changed.member |= !old.contains_key(element);
                (element.clone(), (changed, removed))
            }))
        }
        (Some(_), Some(new)) => {
            let mut changed = of(new, shape);
            changed.member = true;
            (changed, FieldSet::default())
        }
    }
}

fn pairwise(parts: impl Iterator<Item = (String, (FieldSet, FieldSet))>) -> (FieldSet, FieldSet) {
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    for (element, (child_changed, child_removed)) in parts {
        changed.insert(element.clone(), child_changed);
        removed.insert(element, child_removed);
    }
    (changed, removed)
}

/// All fields of a value.
fn of(value: &Value, shape: Shape<'_>) -> FieldSet {
    match value {
        Value::Object(map) if !map.is_empty() && !shape.atomic_map() => {
            pairwise(map.iter().map(|(name, value)| {
                (format!("f:{name}"), (of(value, shape.field(name)), FieldSet::default()))
            }))
            .0
        }
        Value::Array(items) if !items.is_empty() && shape.list() != List::Atomic => {
            let mut set = FieldSet::default();
            for item in items {
                let Some(element) = element(item, shape) else { continue };
                let mut child = of(item, shape.items());
                child.member = true;
                set.insert(element, child);
            }
            set
        }
        _ => FieldSet::leaf(),
    }
}

/// The element of a path that leads to a list's item.
pub fn element(item: &Value, list: Shape<'_>) -> Option<String> {
    match list.list() {
        List::Atomic => None,
        List::Set => Some(format!("v:{item}")),
        List::Map(mut keys) => {
            keys.sort_unstable();
            let pairs: Vec<String> = keys
                .iter()
                .map(|key| (key, list.items().key_value(item, key)))
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| format!("{}:{value}", Value::from(*key)))
                .collect();
            Some(format!("k:{{{}}}", pairs.join(",")))
        }
    }
}

fn readable(element: &str) -> String {
    if let Some(name) = element.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = element.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys = element.strip_prefix("k:").and_then(|keys| serde_json::from_str::<Map<String, Value>>(keys).ok());
    let pairs: Vec<String> = keys.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    format!("[{}]", pairs.join(","))
}
