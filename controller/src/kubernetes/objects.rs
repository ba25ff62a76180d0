//! Objects of the API server in our terms, trimmed to what decisions need.

use std::sync::Arc;

use connectors::SecretData;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::core::ObjectMeta;
use proxy_common::api::{self, API_VERSION, cluster};
use zeroize::Zeroizing;

use super::watched::WatchedConnector;
use crate::grants;
use crate::model::{HeldSecret, Key};

/// The annotation in which kubectl keeps a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Connector; with the reason if its `spec` cannot be read, which is empty then.
pub fn connector(object: WatchedConnector) -> (api::Connector, Option<String>) {
    let (spec, fault) = match object.spec {
        Ok(spec) => (spec, None),
        Err(fault) => (api::ConnectorSpec::default(), Some(fault)),
    };
    let connector = api::Connector {
        api_version: API_VERSION.to_owned(),
        kind: "Connector".to_owned(),
        metadata: metadata(object.metadata),
        spec,
        status: object.status,
    };
    (connector, fault)
}

/// A class; its status is not needed.
pub fn class(object: cluster::ConnectorClass) -> Arc<api::ConnectorClass> {
    Arc::new(api::ConnectorClass {
        api_version: API_VERSION.to_owned(),
        kind: "ConnectorClass".to_owned(),
        metadata: metadata(object.metadata),
        spec: object.spec,
        status: None,
    })
}

/// A pod and its node; `None` as long as it has no node, and once it has ended.
pub fn pod(object: Pod) -> Option<(String, grants::Pod)> {
    let (metadata, spec) = (object.metadata, object.spec?);
    let status = object.status.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ips = status.pod_ips.into_iter().flatten();
    let pod = grants::Pod {
        uid: metadata.uid?,
        namespace: metadata.namespace?,
        name: metadata.name?,
        // The API server fills it in.
        service_account: spec.service_account_name?,
        ips: ips.map(|it| it.ip).collect(),
        host_network: spec.host_network.unwrap_or(false),
    };
    Some((spec.node_name?, pod))
}

/// A Secret and its key. The values are moved, so that there is one copy to wipe.
pub fn secret(mut object: Secret) -> (Key, HeldSecret) {
    let key = Key::new(&object.namespace().unwrap_or_default(), &object.name_any());
    let values = object
        .data
        .take()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name, Zeroizing::new(value.0)));
    let held = HeldSecret {
        data: SecretData::new(&key.namespace, &key.name, object.type_, values),
        uid: object.metadata.uid.unwrap_or_default(),
        resource_version: object.metadata.resource_version.unwrap_or_default(),
    };
    (key, held)
}

fn metadata(object: ObjectMeta) -> api::ObjectMeta {
    let mut annotations = object.annotations.unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    api::ObjectMeta {
        name: object.name,
        namespace: object.namespace,
        labels: object.labels.unwrap_or_default(),
        annotations,
        uid: object.uid,
        resource_version: object.resource_version,
        generation: object.generation,
        creation_timestamp: object.creation_timestamp.map(|it| it.0.to_string()),
        ..api::ObjectMeta::default()
    }
}
