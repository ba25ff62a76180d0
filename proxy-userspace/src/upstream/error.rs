use std::{error::Error as _, io, net::SocketAddr, time::Duration};

use rustls::CertificateError;

use super::{Endpoint, ResolveError, body::Fault, streams::Shortage};
use crate::special::Special;

/// Why an upstream could not be used. Nothing of a request, and no credential, was sent
/// unless the kind is [`Kind::Http`], [`Kind::Silent`], [`Kind::Stalled`] or one of the
/// client's.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// What went wrong.
    pub kind: Kind,
    message: String,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The name has no address.
    Resolve,
    /// No connection.
    Connect,
    /// No trust, or no TLS.
    Tls,
    /// HTTP failed on the connection.
    Http,
    /// No answer in time.
    Silent,
    /// It stopped taking the request's body.
    Stalled,
    /// Too many requests to it at a time.
    Busy,
    /// The client broke its own request off.
    ClientBroken,
    /// The client stopped sending.
    ClientSilent,
}

impl UpstreamError {
    pub(super) fn resolve(endpoint: &Endpoint, source: &ResolveError) -> Self {
        let host = &endpoint.address.host;
        Self {
            kind: Kind::Resolve,
            message: format!("cannot resolve {host}: {source}"),
        }
    }

    pub(super) fn no_address(endpoint: &Endpoint) -> Self {
        let host = &endpoint.address.host;
        Self {
            kind: Kind::Resolve,
            message: format!("{host} is neither a host name with an address nor an IP address"),
        }
    }

    pub(super) fn connect(
        endpoint: &Endpoint,
        addr: SocketAddr,
        from_workload: bool,
        source: &io::Error,
    ) -> Self {
        Self {
            kind: Kind::Connect,
            message: format!(
                "cannot connect to {} at {addr}: {source}{}",
                endpoint.address.authority(),
                policy_hint(from_workload)
            ),
        }
    }

    /// An address at which the node finds something else than the workload would.
    pub(super) fn node_only(endpoint: &Endpoint, addr: SocketAddr, special: Special) -> Self {
        Self {
            kind: Kind::Connect,
            message: format!(
                "{} is not dialled: {addr} is {special}, and http:// Connectors are dialled from \
                 the node, where that leads to services of the node alone; give the upstream an \
                 address that the whole cluster can reach",
                endpoint.address.authority(),
            ),
        }
    }

    pub(super) fn connect_timeout(
        endpoint: &Endpoint,
        addr: SocketAddr,
        from_workload: bool,
    ) -> Self {
        Self {
            kind: Kind::Connect,
            message: format!(
                "{} at {addr} did not accept a connection in time{}",
                endpoint.address.authority(),
                policy_hint(from_workload)
            ),
        }
    }

    pub(super) fn tls(endpoint: &Endpoint, source: &io::Error) -> Self {
        let name = endpoint.address.authority();
        let reason = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let message = match reason {
            Some(rustls::Error::InvalidCertificate(error)) => {
                format!(
                    "the certificate of {name} is refused: {}",
                    certificate(error)
                )
            }
            Some(error) => {
                let hint = certificate_hint(endpoint, &error.to_string());
                format!("no TLS connection to {name}: {error}{hint}")
            }
            None => format!("no TLS connection to {name}: {source}"),
        };
        Self {
            kind: Kind::Tls,
            message,
        }
    }

    pub(super) fn tls_timeout(endpoint: &Endpoint) -> Self {
        Self {
            kind: Kind::Tls,
            message: format!(
                "{} did not finish its TLS handshake in time",
                endpoint.address.authority()
            ),
        }
    }

    pub(super) fn version(endpoint: &Endpoint, wanted: &str) -> Self {
        Self {
            kind: Kind::Tls,
            message: format!(
                "{} does not speak {wanted}, which the client asked for",
                endpoint.address.authority()
            ),
        }
    }

    pub(super) fn http(endpoint: &Endpoint, source: &hyper::Error) -> Self {
        let cause = source.source().map(|cause| format!(": {cause}"));
        let cause = cause.unwrap_or_default();
        let hint = certificate_hint(endpoint, &cause);
        Self {
            kind: Kind::Http,
            message: format!(
                "the exchange with {} failed: {source}{cause}{hint}",
                endpoint.address.authority(),
            ),
        }
    }

    pub(super) fn busy(endpoint: &Endpoint, connections: usize) -> Self {
        Self {
            kind: Kind::Busy,
            message: format!(
                "{} is asked for too much at once: {connections} connections are in use and too \
                 many requests wait for one; try again later",
                endpoint.address.authority(),
            ),
        }
    }

    /// The same on HTTP/2, where connections are shared.
    pub(super) fn no_stream(endpoint: &Endpoint, shortage: Shortage) -> Self {
        let name = endpoint.address.authority();
        let message = match shortage {
            Shortage::Streams(connections) => format!(
                "{name} is asked for too much at once: {connections} connections have as many \
                 streams as it allows, and too many requests wait for one; try again later"
            ),
            Shortage::Forbidden => format!(
                "{name} allows no requests now (its SETTINGS_MAX_CONCURRENT_STREAMS is 0); try \
                 again later"
            ),
            Shortage::Connection => {
                format!("there was no connection to {name} in time; try again later")
            }
        };
        Self {
            kind: Kind::Busy,
            message,
        }
    }

    /// The upstream did nothing wrong: the client's body never came to its end.
    pub(super) fn client(fault: Fault) -> Self {
        match fault {
            Fault::Broken => Self {
                kind: Kind::ClientBroken,
                message: "the request's body broke off, or its chunks cannot be read".into(),
            },
            Fault::Silent(time) => Self {
                kind: Kind::ClientSilent,
                message: format!(
                    "nothing of the request's body came for {} s",
                    time.as_secs()
                ),
            },
        }
    }

    pub(super) fn stalled(endpoint: &Endpoint, waited: Duration) -> Self {
        Self {
            kind: Kind::Stalled,
            message: format!(
                "{} took nothing more of the request's body for {} s",
                endpoint.address.authority(),
                waited.as_secs()
            ),
        }
    }

    pub(super) fn silent(endpoint: &Endpoint, waited: Duration) -> Self {
        Self {
            kind: Kind::Silent,
            message: format!(
                "{} did not answer within {} s",
                endpoint.address.authority(),
                waited.as_secs()
            ),
        }
    }
}

/// What to look at when a connection left from the workload's own network.
fn policy_hint(from_workload: bool) -> &'static str {
    if from_workload {
        "; it was dialled from the workload's network, so check the NetworkPolicies that apply \
         to it"
    } else {
        ""
    }
}

/// What an upstream's alert (RFC 8446, section 6.2) says about the certificate that it was shown,
/// or was not. In TLS 1.3 alerts come after the handshake, and through HTTP/2 no more of them
/// than their text.
fn certificate_hint(endpoint: &Endpoint, error: &str) -> &'static str {
    let Some((_, alert)) = error.split_once("received fatal alert: ") else {
        return "";
    };
    let tls = endpoint.tls.as_ref();
    let has_certificate = tls.is_some_and(|it| it.any.client_auth_cert_resolver.has_certs());
    let is = |names: &[&str]| names.iter().any(|name| alert.starts_with(name));
    if is(&["CertificateRequired"]) && !has_certificate {
        "; it wants a client certificate: the Connector has none"
    } else if has_certificate
        && is(&[
            "AccessDenied",
            "BadCertificate",
            "CertificateExpired",
            "CertificateRequired",
            "CertificateRevoked",
            "CertificateUnknown",
            "DecryptError",
            "UnknownCA",
            "UnsupportedCertificate",
        ])
    {
        "; it does not accept the Connector's client certificate"
    } else {
        ""
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        // The latter: signed by a stranger of the same name as somebody who is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its issuer is not trusted; name its CA in the Connector's spec.caCertSecretRef".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; the owner of the server has to renew it".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check the clocks".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it was issued for another name than spec.address has".into()
        }
        other => other.to_string(),
    }
}
