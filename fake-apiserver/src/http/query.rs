//! The parameters of a request.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use crate::api::{DeleteOptions, FieldValidation, ListOptions, WriteOptions};
use crate::error::{ApiError, Result};
use crate::present::Include;
use crate::resource::Resource;
use crate::selector::Selector;

/// How long a watch lasts if the client does not say.
const WATCH_LIMIT: Duration = Duration::from_mins(30);

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query {
    values: HashMap<String, String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Self { values: pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect() }
    }

    fn text(&self, name: &str) -> &str {
        self.values.get(name).map(String::as_str).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name).map(|value| matches!(value.as_str(), "true" | "1"))
    }

    pub(super) fn watch(&self) -> bool {
        self.flag("watch").unwrap_or(false)
    }

    pub(super) fn bookmarks(&self) -> bool {
        self.flag("allowWatchBookmarks").unwrap_or(false)
    }

    pub(super) fn initial_events(&self) -> Option<bool> {
        self.flag("sendInitialEvents")
    }

    pub(super) fn resource_version(&self) -> &str {
        self.text("resourceVersion")
    }

    pub(super) fn timeout(&self) -> Duration {
        match self.text("timeoutSeconds").parse() {
            Ok(0) | Err(_) => WATCH_LIMIT,
            Ok(seconds) => Duration::from_secs(seconds),
        }
    }

    pub(super) fn include(&self) -> Include {
        match self.text("includeObject") {
            "Object" => Include::Object,
            "None" => Include::None,
            _ => Include::Metadata,
        }
    }

    pub(super) fn selector(&self, resource: &Resource) -> Result<Selector> {
        Selector::parse(resource, self.text("labelSelector"), self.text("fieldSelector"))
    }

    pub(super) fn list(&self, resource: &Resource) -> Result<ListOptions> {
        let limit = self.text("limit");
        Ok(ListOptions {
            selector: self.selector(resource)?,
            limit: if limit.is_empty() {
                0
            } else {
                limit.parse().map_err(|_| ApiError::bad_request(format!("invalid limit: \"{limit}\"")))?
            },
            continue_token: self.text("continue").to_owned(),
            resource_version: self.resource_version().to_owned(),
            version_match: self.text("resourceVersionMatch").to_owned(),
        })
    }

    /// A manager that does not say its name is called after its program.
    pub(super) fn write(&self, agent: &str, apply: bool) -> Result<WriteOptions> {
        let named = self.text("fieldManager");
        let fallback = agent.split('/').next().unwrap_or_default();
        let fallback = if fallback.is_empty() { "unknown" } else { fallback };
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            manager: if named.is_empty() && !apply { fallback.to_owned() } else { named.to_owned() },
            force: self.flag("force").unwrap_or(false),
            validation: match self.text("fieldValidation") {
                "" | "Warn" => FieldValidation::Warn,
                "Ignore" => FieldValidation::Ignore,
                "Strict" => FieldValidation::Strict,
                other => {
                    let message = format!("fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Warn\", \"Strict\"");
                    return Err(ApiError::new(422, "Invalid", message));
                }
            },
        })
    }

    fn dry_run(&self) -> Result<bool> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::new(422, "Invalid", format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\""))),
        }
    }

    /// From the query and the body; the body wins.
    pub(super) fn delete(&self, body: &Value) -> Result<DeleteOptions> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        let policy = text("/propagationPolicy").unwrap_or_else(|| self.text("propagationPolicy").to_owned());
        let in_body = body.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        Ok(DeleteOptions {
            dry_run: in_body || self.dry_run()?,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            grace_seconds: grace.or_else(|| self.text("gracePeriodSeconds").parse().ok()),
            orphan: match policy.as_str() {
                "Orphan" => true,
                "" | "Background" | "Foreground" => body["orphanDependents"] == true,
                other => {
                    let message = format!("propagationPolicy: Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\"");
                    return Err(ApiError::new(422, "Invalid", message));
                }
            },
        })
    }
}
