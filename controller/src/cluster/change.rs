//! What the watches show, trimmed to what decisions need.

use std::sync::Arc;

use kube::runtime::watcher::Event;
use proxy_common::api;

use crate::grants::Pod;
use crate::model::Key;

/// Something happened to the objects of one watch.
#[derive(Debug)]
pub(super) enum Change {
    /// A Connector, as far as it can be read.
    Connector(Event<(Key, Seen)>),
    /// A class, by its name; `None` if it cannot be read.
    Class(Event<(String, Option<Arc<api::ConnectorClass>>)>),
    /// The metadata of a Secret.
    Secret(Event<(Key, Version)>),
    /// A pod, by its uid; `None` if it is on no node, or has ended.
    Pod(Event<(String, Option<(String, Pod)>)>),
    /// The metadata of an object that grants something.
    Role(RoleKind, Event<(RoleKey, String)>),
}

impl Change {
    /// Whether a list is about to be asked for, which says nothing of the answer.
    pub(super) fn is_beginning(&self) -> bool {
        match self {
            Self::Connector(event) => matches!(event, Event::Init),
            Self::Class(event) => matches!(event, Event::Init),
            Self::Secret(event) => matches!(event, Event::Init),
            Self::Pod(event) => matches!(event, Event::Init),
            Self::Role(_, event) => matches!(event, Event::Init),
        }
    }
}

/// A Connector as it is now.
#[derive(Debug)]
pub(super) struct Seen {
    /// Without `spec` if that cannot be read.
    pub(super) object: Box<api::Connector>,
    /// Why `spec` cannot be read.
    pub(super) fault: Option<String>,
}

/// Which version of a Secret there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// `metadata.resourceVersion`.
    pub(super) resource_version: String,
}

/// Kinds of objects that grant something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RoleKind {
    Role,
    RoleBinding,
    ClusterRole,
    ClusterRoleBinding,
}

impl RoleKind {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [
        Self::Role,
        Self::RoleBinding,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
    ];
}

/// An object that grants something: its namespace, if it has one, and its name.
pub(super) type RoleKey = (Option<String>, String);

/// An event with another object in it; without one that is left out, there is none.
pub(super) fn map<K, T>(event: Event<K>, convert: impl FnOnce(K) -> Option<T>) -> Option<Event<T>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(convert(object)?),
        Event::Apply(object) => Event::Apply(convert(object)?),
        Event::Delete(object) => Event::Delete(convert(object)?),
    })
}
