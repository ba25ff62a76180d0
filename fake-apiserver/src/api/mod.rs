//! The verbs, as functions on the state: no HTTP here.

mod create;
mod decode;
mod delete;
mod list;
mod metadata;
mod patch;
mod strategy;
mod update;

use std::sync::Arc;

use serde_json::Value;

pub use decode::encode;
pub use delete::{DeleteOptions, Deleted};
pub(crate) use list::version as parse_version;
pub use list::ListOptions;

use crate::cluster::State;
use crate::error::{ApiError, Result};
use crate::managed::Manager;
use crate::resource::Resource;
use crate::store::Key;

/// What a request is about.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its resource.
    pub resource: Arc<Resource>,
    /// The namespace of the path; empty for all of them, or for a cluster-wide resource.
    pub namespace: String,
    /// The name of the path; empty for the collection.
    pub name: String,
    /// `status` and the like.
    pub subresource: String,
}

impl Target {
    /// Where the object is stored.
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

/// What the server does about fields that it does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drops them.
    Ignore,
    /// Drops them with a warning.
    #[default]
    Warn,
    /// Refuses them.
    Strict,
}

/// The options of a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Who writes.
    pub manager: String,
    /// Whether an apply takes fields from other managers.
    pub force: bool,
    /// About unknown fields.
    pub validation: FieldValidation,
}

impl WriteOptions {
    fn manager(&self, target: &Target, operation: &'static str) -> Manager {
        Manager {
            name: self.manager.clone(),
            operation,
            api_version: target.resource.api_version(),
            subresource: target.subresource.clone(),
        }
    }
}

/// The result of a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now, in the version of the request.
    pub object: Value,
    /// Whether it is new.
    pub created: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

impl State {
    /// One object, in the version of the request.
    pub fn get(&self, target: &Target) -> Result<Value> {
        self.live(target).map(|object| encode(&target.resource, &object))
    }

    pub(crate) fn live(&self, target: &Target) -> Result<Arc<Value>> {
        let found = self.store.get(&target.resource.collection, &target.key());
        found.cloned().ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
    }
}
