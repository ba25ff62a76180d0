//! The requests that carry out what was decided.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client, Resource as _};
use proxy_common::api::{API_VERSION, ConnectorStatus, GROUP, cluster};
use serde_json::{Value, json};
use thiserror::Error;
use zeroize::Zeroizing;

use super::objects;
use crate::grants::Review;
use crate::model::{HeldSecret, Key};

/// Owner of the fields that the controller writes.
pub const FIELD_MANAGER: &str = "postern-controller";

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
