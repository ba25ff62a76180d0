//! Connectors as watches show them: none of them stops the watch, and none is taken for gone
//! because this version does not understand it.

use std::borrow::Cow;

use kube::Resource;
use kube::core::ObjectMeta;
use proxy_common::api::{Condition, ConnectorSpec, ConnectorStatus, cluster};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

type Readable = cluster::Connector;

/// A Connector, whatever its `spec` is like.
#[derive(Clone, Debug)]
pub struct WatchedConnector {
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`, or why it cannot be read: field and fault, without values.
    pub spec: Result<ConnectorSpec, String>,
    /// The parts of `status` that are compared. What this version does not know of it is
    /// passed over: it is written by somebody else.
    pub status: Option<ConnectorStatus>,
}

impl<'de> Deserialize<'de> for WatchedConnector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        let metadata = serde_json::from_value(object["metadata"].take());
        Ok(Self {
            metadata: metadata.map_err(|_| de::Error::custom("metadata cannot be read"))?,
            spec: spec(object["spec"].take()),
            status: object.get("status").map(status),
        })
    }
}

/// As strict as manifests are read: half of a spec must not be taken for the whole.
fn spec(value: Value) -> Result<ConnectorSpec, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let words = error.inner().to_string();
        let names_fields = ["unknown field", "unknown variant", "missing field"];
        let fault = if names_fields.iter().any(|it| words.starts_with(it)) {
            words
        } else {
            // These words show the value.
            "is not of the type that this version expects".to_owned()
        };
        match error.path().to_string().as_str() {
            "." => format!("spec: {fault}"),
            path => format!("spec.{path}: {fault}"),
        }
    })
}

fn status(value: &Value) -> ConnectorStatus {
    let conditions = value["conditions"].as_array();
    ConnectorStatus {
        observed_generation: value["observedGeneration"].as_i64(),
        conditions: conditions
            .into_iter()
            .flatten()
            .filter_map(condition)
            .collect(),
        ..ConnectorStatus::default()
    }
}

fn condition(value: &Value) -> Option<Condition> {
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    Some(Condition {
        type_: text("type")?,
        status: serde_json::from_value(value["status"].clone()).ok()?,
        reason: text("reason"),
        message: text("message"),
        severity: text("severity"),
        last_transition_time: text("lastTransitionTime"),
    })
}

impl Resource for WatchedConnector {
    type DynamicType = ();
    type Scope = <Readable as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Readable::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Readable::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Readable::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Readable::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
