//! From the messages of the protocol to our types.

use std::{net::IpAddr, sync::Arc};

use proxy_common::{
    distribution::{self as wire, credential::Kind},
    maps::POLICY_ANY,
};
use rustls_pki_types::CertificateDer;

use crate::{
    node::{Binding, Granted},
    state::{
        Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy,
        OnUntrustedCa, Protocol, Scheme,
        generator::{Generated, GeneratorError},
    },
};

/// What a message has that it must not have. A newer controller may send what this version
/// does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// The number that means "none".
    #[error("{0} has the number 0")]
    Zero(&'static str),
    /// The number that means "all".
    #[error(
        "a policy has the number {POLICY_ANY}, which stands for all policies; update the \
         controller"
    )]
    Any,
    /// A Connector without an address.
    #[error("connector {0} has no address")]
    NoAddress(String),
    /// A port that is none.
    #[error("connector {connector} has port {port}")]
    Port {
        /// Namespace and name.
        connector: String,
        /// What was sent.
        port: u32,
    },
    /// A value that this version does not know.
    #[error(
        "connector {connector} has a {field} that this version of the agent does not know; \
         update the agent"
    )]
    Unknown {
        /// Namespace and name.
        connector: String,
        /// Which field.
        field: &'static str,
    },
    /// A generator that does not work here. A controller of the same version refuses it.
    #[error("connector {connector}: the generator of its class {error}")]
    Generator {
        /// Namespace and name.
        connector: String,
        /// Why not.
        error: GeneratorError,
    },
    /// An address of a pod that is none.
    #[error("pod {pod} has the address {address:?}")]
    PodAddress {
        /// Namespace and name.
        pod: String,
        /// What was sent.
        address: String,
    },
}

/// A Connector with the state of its credential. One with a value that this version does not
/// know is not usable, so that its connections are refused instead of going out without a
/// credential; the fault says why.
pub(super) fn granted(
    message: &wire::Connector,
) -> Result<(Granted, Option<WireError>), WireError> {
    if message.id == 0 {
        return Err(WireError::Zero("a connector"));
    }
    let title = format!("{}/{}", message.namespace, message.name);
    let mut addresses = message
        .addresses
        .iter()
        .map(|it| address(it, &title))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter();
    let mut unknown = None;
    let mut missing = |field| unknown = Some(unknown_value(&title, field));
    let protocol = protocol(message.protocol).unwrap_or_else(|| {
        missing("protocol");
        Protocol::Http
    });
    let client_authorization =
        client_authorization(message.client_authorization).unwrap_or_else(|| {
            missing("client authorization");
            ClientAuthorization::Reject
        });
    let failure_policy = failure_policy(message.failure_policy).unwrap_or_else(|| {
        missing("failure policy");
        FailurePolicy::Closed
    });
    let on_untrusted_ca = on_untrusted_ca(message.on_untrusted_ca).unwrap_or_else(|| {
        missing("what happens to clients without trust");
        OnUntrustedCa::Fail
    });
    let credential = match message.credential.as_ref().map(credential) {
        Some(Ok(None)) => {
            unknown = Some(unknown_value(&title, "credential"));
            None
        }
        Some(Err(error)) => {
            unknown = Some(WireError::Generator {
                connector: title.clone(),
                error,
            });
            None
        }
        Some(Ok(known)) => known,
        None => None,
    };
    let connector = Connector {
        id: ConnectorId(message.id),
        namespace: message.namespace.clone(),
        name: message.name.clone(),
        class: message.class.clone(),
        address: addresses
            .next()
            .ok_or_else(|| WireError::NoAddress(title.clone()))?,
        extensions: addresses.collect(),
        protocol,
        credential,
        client_authorization,
        failure_policy,
        on_untrusted_ca,
        extra_roots: message
            .extra_roots
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect(),
    };
    let granted = Granted {
        connector: Arc::new(connector),
        binding: Binding {
            generation: message.generation,
            revision: message.revision,
            usable: message.usable && !message.undecided && unknown.is_none(),
        },
    };
    Ok((granted, unknown))
}

/// Whether a policy may have this number.
pub(super) fn policy(id: u32) -> Result<(), WireError> {
    match id {
        0 => Err(WireError::Zero("a policy")),
        POLICY_ANY => Err(WireError::Any),
        _ => Ok(()),
    }
}

fn unknown_value(connector: &str, field: &'static str) -> WireError {
    let connector = connector.to_owned();
    WireError::Unknown { connector, field }
}

/// The addresses of a pod.
pub(super) fn pod_addresses(message: &wire::Workload) -> Result<Vec<IpAddr>, WireError> {
    let parse = |address: &String| {
        address.parse().map_err(|_| WireError::PodAddress {
            pod: format!("{}/{}", message.namespace, message.name),
            address: address.clone(),
        })
    };
    message.ips.iter().map(parse).collect()
}

fn protocol(value: i32) -> Option<Protocol> {
    Some(match wire::Protocol::try_from(value).ok()? {
        wire::Protocol::Http => Protocol::Http,
        wire::Protocol::Oci => Protocol::Oci,
    })
}

fn client_authorization(value: i32) -> Option<ClientAuthorization> {
    Some(match wire::ClientAuthorization::try_from(value).ok()? {
        wire::ClientAuthorization::Replace => ClientAuthorization::Replace,
        wire::ClientAuthorization::Keep => ClientAuthorization::Keep,
        wire::ClientAuthorization::Reject => ClientAuthorization::Reject,
    })
}

fn failure_policy(value: i32) -> Option<FailurePolicy> {
    Some(match wire::FailurePolicy::try_from(value).ok()? {
        wire::FailurePolicy::Closed => FailurePolicy::Closed,
        wire::FailurePolicy::Open => FailurePolicy::Open,
    })
}

fn on_untrusted_ca(value: i32) -> Option<OnUntrustedCa> {
    Some(match wire::OnUntrustedCa::try_from(value).ok()? {
        wire::OnUntrustedCa::Fail => OnUntrustedCa::Fail,
        wire::OnUntrustedCa::Passthrough => OnUntrustedCa::Passthrough,
    })
}

fn address(message: &wire::Address, connector: &str) -> Result<Address, WireError> {
    let port = u16::try_from(message.port).ok().filter(|port| *port != 0);
    Ok(Address {
        scheme: if message.tls {
            Scheme::Https
        } else {
            Scheme::Http
        },
        host: message.host.clone(),
        port: port.ok_or_else(|| WireError::Port {
            connector: connector.to_owned(),
            port: message.port,
        })?,
        path: message.path.clone(),
    })
}

/// Copies, so that the message is left to wipe what it holds. `None`: of a kind that this
/// version does not know.
fn credential(message: &wire::Credential) -> Result<Option<Credential>, GeneratorError> {
    let secret = |text: &String| text.as_str().into();
    let Some(kind) = &message.kind else {
        return Ok(None);
    };
    Ok(Some(match kind {
        Kind::Basic(it) => Credential::Basic {
            username: secret(&it.username),
            password: secret(&it.password),
        },
        Kind::Bearer(it) => Credential::Bearer {
            token: secret(&it.token),
        },
        Kind::IdentityToken(it) => Credential::IdentityToken {
            token: secret(&it.token),
        },
        Kind::Generated(it) => {
            let data = it.data.iter();
            let data = data.map(|value| (value.key.clone(), secret(&value.value)));
            let params = it.params.clone().into_iter().collect();
            Credential::Generated(Arc::new(Generated::new(&it.rego, data.collect(), params)?))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(rego: &str) -> wire::Connector {
        let generated = wire::Generated {
            rego: rego.to_owned(),
            data: vec![wire::SecretValue {
                key: "token".to_owned(),
                value: "hunter2".to_owned(),
            }],
            params: [("realm".to_owned(), "blue".to_owned())].into(),
        };
        wire::Connector {
            id: 1,
            namespace: "team".to_owned(),
            name: "api".to_owned(),
            addresses: vec![wire::Address {
                host: "api.example.com".to_owned(),
                port: 443,
                ..wire::Address::default()
            }],
            credential: Some(wire::Credential {
                kind: Some(Kind::Generated(generated)),
            }),
            usable: true,
            ..wire::Connector::default()
        }
    }

    #[test]
    fn a_generator_arrives_with_what_it_is_given() {
        let rego = "package proxy\n\
                    auth := {\"position\": \"query\", \"auth\": {\"k\": input.data.token}}";
        let (granted, fault) = granted(&message(rego)).expect("a Connector");
        assert!(granted.binding.usable && fault.is_none());
        let Some(Credential::Generated(generated)) = &granted.connector.credential else {
            panic!("{granted:?}");
        };
        assert_eq!(generated.rego(), rego);
        assert_eq!(generated.params()["realm"], "blue");
        assert!(!format!("{granted:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_evaluated_or_understood_is_refused() {
        let mut unknown = message("");
        unknown.credential = Some(wire::Credential { kind: None });
        for (message, expected) in [
            (message("package proxy\nauth := trace(1)"), "line 2"),
            (
                message("package proxy\nauth := input.data.none"),
                "undefined",
            ),
            (unknown, "update the agent"),
        ] {
            let (granted, fault) = granted(&message).expect("a Connector");
            assert!(!granted.binding.usable && granted.connector.credential.is_none());
            let fault = fault.expect("a fault").to_string();
            assert!(
                fault.contains("team/api") && fault.contains(expected),
                "{fault}"
            );
        }
    }
}
