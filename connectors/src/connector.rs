//! A Connector as the pipeline uses it: validated, its class and Secret resolved.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use secrecy::SecretString;

use super::client_certificate::ClientCertificate;
use super::generator::Generated;

/// Number of a Connector within one snapshot; the key of the kernel's `CREDENTIALS` map.
///
/// Zero is never a Connector: in `DESTINATIONS` it stands for "several".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectorId(pub u32);

/// One Connector, ready for use.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Its number in this snapshot.
    pub id: ConnectorId,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.connectorClassName`.
    pub class: String,
    /// `spec.address`.
    pub address: Address,
    /// `spec.addressExtensions`: further addresses that are sent the same credential.
    pub extensions: Vec<Address>,
    /// How requests to it are authenticated and answered.
    pub protocol: Protocol,
    /// What is injected; `None` when its class allows a Connector without a Secret.
    pub credential: Option<Credential>,
    /// What happens to an `Authorization` header that the client sends.
    pub client_authorization: ClientAuthorization,
    /// What the kernel does with new connections while Postern does not answer.
    pub failure_policy: FailurePolicy,
    /// What happens to workloads that do not trust Postern's authority.
    pub on_untrusted_ca: OnUntrustedCa,
    /// Certificates trusted for this upstream besides the system's. Connectors that name the
    /// same Secret share them.
    pub extra_roots: Arc<[CertificateDer<'static>]>,
}

impl Connector {
    /// Every address of the Connector, its own first.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.address).chain(&self.extensions)
    }

    /// What its upstream is shown in the TLS handshake.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.credential.as_ref()?.certificate()
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a Connector points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Lower-cased DNS name, or an IP address without brackets.
    pub host: String,
    /// The port given, or the scheme's own.
    pub port: u16,
    /// Path prefix without a trailing slash; empty for the root.
    pub path: String,
}

/// Scheme of an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// `spec.protocol` of a `ConnectorClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The credential is a header.
    Http,
    /// The OCI distribution specification with its token exchange.
    Oci,
}

/// Secret material of a Connector; `Debug` shows none of it.
#[derive(Clone, Debug)]
pub enum Credential {
    /// RFC 7617 user name and password.
    Basic {
        /// User name; not secret by itself but never logged either.
        username: SecretString,
        /// Password or access token.
        password: SecretString,
    },
    /// RFC 6750 bearer token.
    Bearer {
        /// The token.
        token: SecretString,
    },
    /// An `OAuth2` refresh token for a registry's token service (`identitytoken`).
    IdentityToken {
        /// The refresh token.
        token: SecretString,
    },
    /// What the class's `generator.rego` makes of the Secret and the request.
    Generated(Arc<Generated>),
    /// What the upstream is shown in the TLS handshake.
    Certificate {
        /// The certificate with its key.
        certificate: Arc<ClientCertificate>,
        /// What is added to requests besides, if the class has a generator.
        generated: Option<Arc<Generated>>,
    },
}

impl Credential {
    /// What the upstream is shown in the TLS handshake.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        match self {
            Self::Certificate { certificate, .. } => Some(certificate),
            _ => None,
        }
    }

    /// What the class's generator makes.
    pub fn generated(&self) -> Option<&Arc<Generated>> {
        match self {
            Self::Generated(generated) => Some(generated),
            Self::Certificate { generated, .. } => generated.as_ref(),
            _ => None,
        }
    }
}

/// `spec.interception.clientAuthorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthorization {
    /// The Connector's credential takes its place.
    #[default]
    Replace,
    /// The client's own goes through, and nothing is injected.
    Keep,
    /// The request is refused with 403.
    Reject,
}

/// `spec.interception.onUntrustedCA`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUntrustedCa {
    /// Their connections fail.
    #[default]
    Fail,
    /// After some that failed, connections are passed through without a credential.
    Passthrough,
}

/// `spec.interception.failurePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// New connections are refused.
    #[default]
    Closed,
    /// New connections go to the destination untouched, without a credential.
    Open,
}
