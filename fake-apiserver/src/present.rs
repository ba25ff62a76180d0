//! The forms of an answer: as it is, metadata only, or as a table.

use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::resource::Resource;
use crate::table;

/// What the client wants to see of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Full,
    /// Its metadata.
    Metadata,
    /// A row.
    Table {
        /// How much of the object comes with its row.
        include: Include,
    },
}

/// How much of an object comes with its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Include {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

impl Form {
    /// Reads the `Accept` header; the first known form counts.
    pub fn negotiate(accept: &str, include: Include) -> Result<Self> {
        for part in accept.split(',') {
            let mut fields = part.split(';').map(str::trim);
            let media = fields.next().unwrap_or_default();
            if !matches!(media, "" | "*/*" | "application/*" | "application/json" | "application/json, */*") {
                continue;
            }
            match fields.find_map(|field| field.strip_prefix("as=")) {
                None => return Ok(Self::Full),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Self::Metadata),
                Some("Table") => return Ok(Self::Table { include }),
                Some(_) => {}
            }
        }
        Err(ApiError::not_acceptable())
    }

    /// One object.
    pub fn show(self, resource: &Resource, object: Value, columns: bool) -> Value {
        match self {
            Self::Full => object,
            Self::Metadata => metadata_of(&object),
            Self::Table { include } => {
                let version = object["metadata"]["resourceVersion"].clone();
                table::table(resource, &[object], &json!({"resourceVersion": version}), include, columns)
            }
        }
    }

    /// A list.
    pub fn list(self, resource: &Resource, items: Vec<Value>, metadata: Value) -> Value {
        match self {
            Self::Full => {
                // Items of built-in kinds do not say again what the list says.
                let strip = |mut item: Value| {
                    if let (None, Some(map)) = (&resource.custom, item.as_object_mut()) {
                        map.remove("apiVersion");
                        map.remove("kind");
                    }
                    item
                };
                let items: Vec<Value> = items.into_iter().map(strip).collect();
                json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
            }
            Self::Metadata => {
                let items: Vec<Value> = items.iter().map(metadata_of).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
            }
            Self::Table { include } => table::table(resource, &items, &metadata, include, true),
        }
    }

    /// A bookmark, which has metadata only in any form.
    pub fn mark(self, object: Value) -> Value {
        match self {
            Self::Full => object,
            Self::Metadata => metadata_of(&object),
            Self::Table { .. } => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
                "columnDefinitions": null, "rows": [{"cells": [], "object": metadata_of(&object)}],
            }),
        }
    }
}

/// The metadata of an object, as an object.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
