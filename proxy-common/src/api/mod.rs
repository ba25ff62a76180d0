//! The API objects users write: Connector, `ConnectorClass`, and the Secrets they name.
//!
//! Each kind is split the way Kubernetes generators want it: a root object with the
//! envelope, and a spec and a status type of their own. Fields are optional wherever the
//! published schema leaves them optional; what a usable object needs beyond that is decided
//! by whoever resolves it, who can name the document and the fix.
//!
//! The root objects here are those of files. With the feature `kube`, `cluster` has those
//! of an API server, around the same specs and statuses, and the definitions of the kinds.

mod class;
#[cfg(feature = "kube")]
pub mod cluster;
mod connector;
mod metadata;
mod probe;
mod secret;
mod shared;
#[cfg(test)]
mod tests;

pub use class::{
    ApiEndpoint, AuthExtractor, AuthProbe, AuthType, ClassApiStatus, ClassAuth, ClassProxyStatus,
    ClientConfiguration, ConnectorClass, ConnectorClassSpec, ConnectorClassStatus, Generator,
    Permissions, ProtocolName, ProxyEndpoint,
};
pub use connector::{
    ApiStatus, ClientAuthorizationName, Connector, ConnectorAuth, ConnectorSpec, ConnectorStatus,
    EgressName, FailurePolicyName, Interception, InterceptionMode, ProxyStatus, SecretName,
    UntrustedCaPolicy,
};
pub use metadata::ObjectMeta;
pub use probe::{ApiProbe, HttpHeader, HttpMethod, HttpProbe, HttpScheme, Probe, ProbeResponse};
pub use secret::{Secret, SecretText};
pub use shared::{
    Addressable, Condition, ConditionStatus, DestinationRef, ObjectReference, Param, ParamSpec,
    PropertySpec,
};

/// API group of Connector and `ConnectorClass`.
pub const GROUP: &str = "connectors.postern.dev";
/// The one version of [`GROUP`].
pub const VERSION: &str = "v1alpha1";
/// [`GROUP`] and [`VERSION`] as an object's `apiVersion` spells them.
pub const API_VERSION: &str = "connectors.postern.dev/v1alpha1";
/// The group whose manifests fit this schema once their `apiVersion` is changed.
pub const ORIGIN_API_VERSION: &str = "connectors.alauda.io/v1alpha1";
