//! Connector: an address, a class, a Secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Addressable, Condition, ObjectMeta, ObjectReference, Param};

/// What a workload is allowed to reach without knowing the secret. Namespaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connector {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// `Connector`.
    pub kind: String,
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ConnectorSpec,
    /// What was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ConnectorStatus>,
}

/// `spec` of a [`Connector`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(kube::CustomResource, schemars::JsonSchema),
    kube(
        group = "connectors.postern.dev",
        version = "v1alpha1",
        kind = "Connector",
        root = "ConnectorObject",
        doc = "What a workload is allowed to reach without knowing the secret.",
        namespaced,
        plural = "connectors",
        singular = "connector",
        category = "postern",
        status = "ConnectorStatus",
        derive = "PartialEq",
        printcolumn = r#"{"name": "Class", "type": "string", "jsonPath": ".spec.connectorClassName"}"#,
        printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".spec.address"}"#,
        printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
        printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
        printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectorSpec {
    /// Name of the `ConnectorClass` to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector_class_name: Option<String>,
    /// URL of the upstream, `http` or `https`, with or without a path prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Further addresses that may be sent the same credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-list-type" = "atomic")))]
    pub address_extensions: Vec<Param>,
    /// The credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ConnectorAuth>,
    /// Secret with PEM certificates trusted for this upstream besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert_secret_ref: Option<SecretName>,
    /// Options that the class declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-list-type" = "atomic")))]
    pub params: Vec<Param>,
    /// How connections to the address are taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interception: Option<Interception>,
}

/// `spec.auth` of a [`Connector`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectorAuth {
    /// Name of one authentication type of the class, spelled exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Secret in the Connector's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectReference>,
    /// Values for the authentication probe of the class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-list-type" = "atomic")))]
    pub params: Vec<Param>,
}

/// Name of a Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretName {
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `spec.interception` of a [`Connector`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// The way in that this Connector is limited to; absent: every way that is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "InterceptionMode"))]
    pub mode: Option<InterceptionMode>,
    /// What happens to new connections while Postern does not answer; absent: `Closed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "FailurePolicyName"))]
    pub failure_policy: Option<FailurePolicyName>,
    /// What happens to a client's own `Authorization`; absent: `Replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "ClientAuthorizationName"))]
    pub client_authorization: Option<ClientAuthorizationName>,
    /// The network that the upstream is dialled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "EgressName"))]
    pub egress: Option<EgressName>,
    /// What happens to a client that does not trust Postern's authority; absent: `Fail`.
    #[serde(
        default,
        rename = "onUntrustedCA",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "kube", schemars(with = "UntrustedCaPolicy"))]
    pub on_untrusted_ca: Option<UntrustedCaPolicy>,
}

/// Ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum InterceptionMode {
    /// The client dials the address itself.
    Transparent,
    /// The client uses an HTTP proxy.
    Forward,
    /// The client uses a URL of Postern.
    Reverse,
}

/// What happens while Postern does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum FailurePolicyName {
    /// Connections are refused.
    Closed,
    /// Connections go through untouched, without a credential.
    Open,
}

/// What happens to a client's own `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ClientAuthorizationName {
    /// The Connector's credential takes its place.
    Replace,
    /// It goes through, and nothing is injected.
    Keep,
    /// The request is refused.
    Reject,
}

/// Networks that an upstream can be dialled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum EgressName {
    /// The workload's own.
    Pod,
    /// The node's.
    Node,
}

/// What happens to a client that does not trust Postern's authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum UntrustedCaPolicy {
    /// Its connections fail.
    Fail,
    /// Its connections are passed through without a credential.
    Passthrough,
}

/// `status` of a [`Connector`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectorStatus {
    /// Notes of the controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What was observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where reverse mode serves this Connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStatus>,
    /// Where the platform's API serves this Connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiStatus>,
}

/// `status.proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyStatus {
    /// Address of the reverse proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_address: Option<Addressable>,
}

/// `status.api` of a [`Connector`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiStatus {
    /// Path below the platform's API entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}
