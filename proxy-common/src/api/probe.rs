//! How a class says that its systems are alive, and that a credential works.

use serde::{Deserialize, Serialize};

/// One check; without a field there is nothing to check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A request to the Connector's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// A request to the API of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiProbe>,
}

/// A probe over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Go template of path and query, from the root of the host: the path of
    /// `spec.address` is part of it only if the template says so.
    pub path: String,
    /// Another host than the address's, as `host` or `host:port`; a Go template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Absent: the address's scheme for its own host, `http` for any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "HttpScheme"))]
    pub scheme: Option<HttpScheme>,
    /// Absent: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "HttpMethod"))]
    pub method: Option<HttpMethod>,
    /// Whether a redirect is the answer instead of a detour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_redirect: Option<bool>,
    /// Headers; values are Go templates, and a value that comes out empty is not sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-list-type" = "atomic")))]
    pub http_headers: Vec<HttpHeader>,
    /// What counts as success; absent: any 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ProbeResponse>,
}

/// A probe of the class's API: 200 is success, 401 and 403 a bad credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiProbe {
    /// Go template of the path below `spec.api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A header that a probe sends; repeats are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Go template of the value.
    pub value: String,
}

/// The verdict on a probe's response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeResponse {
    /// CEL expression of type bool over `response.statusCode`, `.headers`, `.body` and
    /// `.bodyString`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
}

/// Schemes a probe may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HttpScheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// Methods a probe may use; there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// GET.
    Get,
    /// POST, sent empty.
    Post,
}
