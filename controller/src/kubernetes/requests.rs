//! The requests that carry out what was decided.

use aws_lc_rs::digest::{Context, SHA256};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client, Resource as _};
use proxy_common::api::{API_VERSION, ConnectorStatus, GROUP, cluster};
use proxy_common::distribution::Workload;
use serde_json::{Value, json};
use thiserror::Error;
use zeroize::Zeroizing;

use super::objects;
use crate::grants::Review;
use crate::model::{HeldSecret, Key};

/// Owner of the fields that the controller writes.
pub const FIELD_MANAGER: &str = "postern-controller";

/// What Events name as their controller.
const REPORTER: &str = "connectors.postern.dev/controller";

/// Which state of an object a status was worked out from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// Writes the status of a Connector by server-side apply. Returns the object's new version.
///
/// The object must still be as it was when the status was worked out, otherwise that is a
/// conflict. The version protects a successor of the same name: an API server does not look
/// at the uid when it writes the status of a custom resource that exists.
pub async fn write_status(
    client: &Client,
    key: &Key,
    version: &ObjectVersion,
    status: &ConnectorStatus,
) -> kube::Result<ObjectVersion> {
    // The rest of the answer is not looked at: this version may not be able to read it.
    let connectors: Api<PartialObjectMeta<cluster::Connector>> =
        Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Apply(status_patch(key, version, status));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = connectors.patch_status(&key.name, &params, &patch).await?;
    Ok(ObjectVersion {
        uid: written.metadata.uid.unwrap_or_default(),
        resource_version: written.metadata.resource_version.unwrap_or_default(),
    })
}

fn status_patch(key: &Key, version: &ObjectVersion, status: &ConnectorStatus) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Connector",
        "metadata": {
            "namespace": key.namespace,
            "name": key.name,
            "uid": version.uid,
            "resourceVersion": version.resource_version,
        },
        "status": status,
    })
}

/// Asks the API server a review. An answer that is no clear yes is a no.
pub async fn ask(client: &Client, review: &Review) -> kube::Result<bool> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &access_review(review))
        .await?;
    Ok(answer
        .status
        .is_some_and(|status| status.allowed && !status.denied.unwrap_or(false)))
}

fn access_review(review: &Review) -> SubjectAccessReview {
    let (namespace, account) = (&review.namespace, &review.service_account);
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{namespace}:{account}")),
        groups: Some(vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ]),
        resource_attributes: Some(ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some("connectors".to_owned()),
            subresource: Some("proxy".to_owned()),
            verb: Some("get".to_owned()),
            namespace: Some(namespace.clone()),
            name: review.connector.clone(),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview {
        spec,
        ..SubjectAccessReview::default()
    }
}

/// What an Event says about a pod.
pub(crate) struct PodEvent<'a> {
    pub(crate) pod: &'a Workload,
    /// What else it is about. There is one Event for each pod, reason and this.
    pub(crate) about: &'a str,
    /// In `UpperCamelCase`.
    pub(crate) reason: &'static str,
    /// What was done or failed, in the same form.
    pub(crate) action: &'static str,
    /// For humans, at most 1 KiB.
    pub(crate) note: String,
}

/// Writes an Event of type `Warning`, unless it is there already: API servers keep Events for an
/// hour.
pub(crate) async fn write_event(client: &Client, event: PodEvent<'_>) -> kube::Result<()> {
    let events: Api<Event> = Api::namespaced(client.clone(), &event.pod.namespace);
    let event = pod_event(event);
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        written => written.map(drop),
    }
}

fn pod_event(event: PodEvent<'_>) -> Event {
    let PodEvent {
        pod,
        about,
        reason,
        action,
        note,
    } = event;
    let mut context = Context::new(&SHA256);
    for part in [&*pod.pod_uid, reason, about] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let hash = context.finish();
    let hash = hash
        .as_ref()
        .first_chunk()
        .copied()
        .map_or(0, u64::from_be_bytes);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("postern-{hash:016x}")),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        action: Some(action.to_owned()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.pod_uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(FIELD_MANAGER.to_owned()),
        ..Event::default()
    }
}

/// Why a Secret could not be read.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] kube::Error),
    /// The answer is something else; what it is, is not told.
    #[error("the API server's answer is not a Secret")]
    NotASecret,
}

/// Reads a Secret that some Connector names; `None` if there is none.
///
/// The answer is parsed here, because the client would log one that it cannot parse.
pub async fn fetch_secret(client: &Client, key: &Key) -> Result<Option<HeldSecret>, FetchError> {
    let request = Request::new(Secret::url_path(&(), Some(&key.namespace)))
        .get(&key.name, &GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let text = match client.request_text(request).await {
        Ok(text) => Zeroizing::new(text),
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
        // It holds the bytes that are not text.
        Err(kube::Error::FromUtf8(_)) => return Err(FetchError::NotASecret),
        Err(error) => return Err(error.into()),
    };
    let object = serde_json::from_str(&text).map_err(|_| FetchError::NotASecret)?;
    Ok(Some(objects::secret(object).1))
}
