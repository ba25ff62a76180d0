//! Watches: a position in the log of changes, and what lies after it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{ListOptions, Target, encode};
use crate::cluster::State;
use crate::error::{ApiError, Result};
use crate::present::Form;
use crate::selector::Selector;
use crate::store::Change;

/// What a watch is to show.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Which objects.
    pub selector: Selector,
    /// From where: empty or zero for the state now, then its changes.
    pub resource_version: String,
    /// Whether bookmarks are sent.
    pub bookmarks: bool,
    /// Whether it begins with all objects and a bookmark after them.
    pub initial_events: Option<bool>,
    /// The form of the objects.
    pub form: Form,
}

/// One running watch.
#[derive(Debug)]
pub struct Watch {
    target: Target,
    options: WatchOptions,
    revision: u64,
    /// A table says once what its columns are.
    columns_sent: bool,
}

impl Watch {
    /// Starts a watch; the lines are those that it begins with.
    pub fn start(state: &State, target: Target, options: WatchOptions) -> Result<(Self, Vec<Value>)> {
        let wanted = crate::api::parse_version(&options.resource_version)?.unwrap_or_default();
        let current = state.store.revision();
        if options.initial_events == Some(true) && !options.bookmarks {
            let why = "sendInitialEvents is forbidden unless allowWatchBookmarks is true";
            return Err(ApiError::new(422, "Invalid", why));
        }
        let initial = options.initial_events.unwrap_or(wanted == 0);
        let mut watch = Self { target, options, revision: if wanted == 0 || initial { current } else { wanted }, columns_sent: false };
        if !initial {
            return Ok((watch, Vec::new()));
        }
        let list = ListOptions { selector: watch.options.selector.clone(), ..ListOptions::default() };
        let items = state.list(&watch.target, &list)?.items;
        let mut lines: Vec<Value> = items.iter().map(|object| watch.line("ADDED", object)).collect();
        if watch.options.initial_events == Some(true) {
            lines.push(watch.bookmark(true));
        }
        Ok((watch, lines))
    }

    /// What has happened since; an error ends the watch.
    pub fn next(&mut self, state: &State) -> Result<Vec<Value>, Value> {
        let current = state.store.revision();
        if current <= self.revision {
            return Ok(Vec::new());
        }
        let changes: Vec<Change> = match state.store.since(self.revision) {
            Ok(changes) => changes.filter(|change| self.concerns(change)).cloned().collect(),
            Err(compacted) => {
                let message = format!("too old resource version: {} ({})", self.revision, compacted.oldest);
                return Err(json!({"type": "ERROR", "object": ApiError::expired(message).status()}));
            }
        };
        self.revision = current;
        Ok(changes.iter().filter_map(|change| self.event(change)).collect())
    }

    fn concerns(&self, change: &Change) -> bool {
        *change.collection == self.target.resource.collection
            && (self.target.namespace.is_empty() || change.key.0 == self.target.namespace)
    }

    /// A change as the selector sees it: an object that no longer matches is deleted, one
    /// that begins to match is added.
    fn event(&mut self, change: &Change) -> Option<Value> {
        let matches = |object: &Arc<Value>| self.options.selector.matches(&encode(&self.target.resource, object));
        let before = change.before.as_ref().is_some_and(matches);
        let after = !change.deleted && matches(&change.after);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(self.line("ADDED", &change.after)),
            (true, true) => Some(self.line("MODIFIED", &change.after)),
            (true, false) if change.deleted => Some(self.line("DELETED", &change.after)),
            (true, false) => {
                // The last state that matched, at the revision of the change.
                let mut object = (**change.before.as_ref()?).clone();
                object["metadata"]["resourceVersion"] = Value::from(change.revision.to_string());
                Some(self.line("DELETED", &object))
            }
        }
    }

    fn line(&mut self, kind: &str, object: &Value) -> Value {
        let object = encode(&self.target.resource, object);
        let shown = self.options.form.show(&self.target.resource, object, !self.columns_sent);
        self.columns_sent = true;
        json!({"type": kind, "object": shown})
    }

    /// A sign that nothing before this revision is missing.
    pub fn bookmark(&self, initial_end: bool) -> Value {
        let resource = &self.target.resource;
        let mut object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"type": "BOOKMARK", "object": self.options.form.mark(object)})
    }

    /// Whether the client wants bookmarks.
    pub fn wants_bookmarks(&self) -> bool {
        self.options.bookmarks
    }
}
