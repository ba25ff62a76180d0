//! From the messages of the protocol to our types.

use std::{net::IpAddr, sync::Arc};

use proxy_common::{
    distribution::{self as wire, credential::Kind},
    maps::POLICY_ANY,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    node::{Binding, Granted},
    state::{
        Address, AddressError, CertificateFault, ClientAuthorization, ClientCertificate, Connector,
        ConnectorId, Credential, FailurePolicy, OnUntrustedCa, Protocol, Scheme,
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
    /// A Connector without any address that could be refused.
    #[error(
        "connector {0} has no address that this version of the agent understands: nothing of it is \
         in force but what was known of it before, which is refused; update the agent"
    )]
    NoAddress(String),
    /// An address that cannot be. It is not repeated: it may have anything in it.
    #[error(
        "connector {connector} is not in force: its address {fault}; all of its addresses are \
         refused; write another one, or update the agent"
    )]
    Address {
        /// Namespace and name.
        connector: String,
        /// Why not.
        fault: AddressError,
    },
    /// An address extension that cannot be.
    #[error(
        "connector {connector} goes without its address extension {number}, which {fault}; write \
         another one, or update the agent"
    )]
    Extension {
        /// Namespace and name.
        connector: String,
        /// Which one, counted from 1.
        number: usize,
        /// Why not.
        fault: AddressError,
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
    /// A certificate or key that cannot be used here. A controller of the same version refuses it.
    #[error("connector {connector}: its client certificate ({key}) {fault}", key = fault.key())]
    Certificate {
        /// Namespace and name.
        connector: String,
        /// Why not.
        fault: CertificateFault,
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

/// A Connector with the state of its credential, and what is wrong with it. One with a value that
/// this version does not know is not usable, so that its connections are refused instead of going
/// out without a credential. An extension that cannot be costs nothing but itself: nobody can
/// connect there. Fails if there is nothing that could be refused.
pub(super) fn granted(message: &wire::Connector) -> Result<(Granted, Vec<WireError>), WireError> {
    if message.id == 0 {
        return Err(WireError::Zero("a connector"));
    }
    let title = format!("{}/{}", message.namespace, message.name);
    let mut faults = Vec::new();
    let (mut addresses, is_own) = addresses(message, &title, &mut faults);
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
    let credential = match message.credential.as_ref() {
        Some(message) => credential(message, &title)
            .inspect_err(|fault| unknown = Some(fault.clone()))
            .ok(),
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
            usable: message.usable && !message.undecided && is_own && unknown.is_none(),
        },
    };
    faults.extend(unknown);
    Ok((granted, faults))
}

/// The addresses that can be, and whether the first of them is the Connector's own. In the place
/// of one whose port is none stands the same with the port of its scheme, to be refused.
fn addresses(
    message: &wire::Connector,
    title: &str,
    faults: &mut Vec<WireError>,
) -> (std::vec::IntoIter<Address>, bool) {
    let mut found = Vec::with_capacity(message.addresses.len());
    let mut is_own = true;
    for (number, sent) in message.addresses.iter().enumerate() {
        let connector = title.to_owned();
        match address(sent) {
            Ok(address) => found.push(address),
            Err(fault) if number == 0 => {
                is_own = false;
                let with_usual_port = wire::Address {
                    port: scheme(sent).default_port().into(),
                    ..sent.clone()
                };
                found.extend(address(&with_usual_port));
                faults.push(WireError::Address { connector, fault });
            }
            Err(fault) => faults.push(WireError::Extension {
                connector,
                number,
                fault,
            }),
        }
    }
    (found.into_iter(), is_own)
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

fn scheme(message: &wire::Address) -> Scheme {
    if message.tls {
        Scheme::Https
    } else {
        Scheme::Http
    }
}

/// Host and port by the rules for what users write: what comes out is what the controller has
/// made of that.
fn address(message: &wire::Address) -> Result<Address, AddressError> {
    let port = u16::try_from(message.port).map_err(|_| AddressError::Port)?;
    let address = Address {
        scheme: scheme(message),
        host: message.host.clone(),
        port,
        path: message.path.clone(),
    };
    let written = format!("{}://{}:{port}", address.scheme, address.bracketed_host());
    if Address::parse(&written)?.host == address.host {
        Ok(address)
    } else {
        Err(AddressError::Host)
    }
}

/// Copies, so that the message is left to wipe what it holds.
fn credential(message: &wire::Credential, connector: &str) -> Result<Credential, WireError> {
    let secret = |text: &String| text.as_str().into();
    let Some(kind) = &message.kind else {
        return Err(unknown_value(connector, "credential"));
    };
    Ok(match kind {
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
        Kind::Generated(it) => Credential::Generated(generated(it, connector)?),
        Kind::Certificate(it) => {
            let chain = it.chain.iter();
            let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
            let key = Zeroizing::new(it.key.clone());
            let certificate = ClientCertificate::from_der(chain, key);
            let also = it.generated.as_ref();
            Credential::Certificate {
                certificate: Arc::new(certificate.map_err(|fault| WireError::Certificate {
                    connector: connector.to_owned(),
                    fault,
                })?),
                generated: also.map(|it| generated(it, connector)).transpose()?,
            }
        }
    })
}

fn generated(message: &wire::Generated, connector: &str) -> Result<Arc<Generated>, WireError> {
    let data = message.data.iter();
    let data = data.map(|it| (it.key.clone(), it.value.as_str().into()));
    let params = message.params.clone().into_iter().collect();
    match Generated::new(&message.rego, data.collect(), params) {
        Ok(generated) => Ok(Arc::new(generated)),
        Err(error) => Err(WireError::Generator {
            connector: connector.to_owned(),
            error,
        }),
    }
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
        let (granted, faults) = granted(&message(rego)).expect("a Connector");
        assert!(granted.binding.usable && faults.is_empty());
        let Some(Credential::Generated(generated)) = &granted.connector.credential else {
            panic!("{granted:?}");
        };
        assert_eq!(generated.rego(), rego);
        assert_eq!(generated.params()["realm"], "blue");
        assert!(!format!("{granted:?}").contains("hunter2"));
    }

    #[test]
    fn a_certificate_arrives_with_its_key_or_not_at_all() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::default().self_signed(&key);
        let leaf = leaf.expect("a certificate").der().to_vec();
        let sent = |chain: &[&[u8]], key: &[u8]| {
            let certificate = wire::Certificate {
                chain: chain.iter().map(|it| it.to_vec()).collect(),
                key: key.to_vec(),
                generated: None,
            };
            let mut message = message("");
            message.credential = Some(wire::Credential {
                kind: Some(Kind::Certificate(certificate)),
            });
            granted(&message).expect("a Connector")
        };
        let (arrived, faults) = sent(&[&leaf], key.serialized_der());
        assert!(arrived.binding.usable && faults.is_empty());
        let certificate = arrived.connector.certificate().expect("a certificate");
        assert_eq!(*certificate.chain()[0], *leaf);
        assert_eq!(certificate.key(), key.serialized_der());

        let other = rcgen::KeyPair::generate().expect("a key");
        for (chain, key, expected) in [
            (
                &[&*leaf][..],
                other.serialized_der(),
                "tls.key) does not belong",
            ),
            (
                &[&leaf[1..]],
                key.serialized_der(),
                "tls.crt) certificate 1 cannot",
            ),
            (&[], key.serialized_der(), "tls.crt) has no"),
            (&[&leaf], b"hunter2", "tls.key) holds no private key"),
        ] {
            let (refused, faults) = sent(chain, key);
            assert!(!refused.binding.usable && refused.connector.credential.is_none());
            let fault = faults.first().expect("a fault").to_string();
            assert!(
                fault.contains("team/api") && fault.contains(expected),
                "{fault}"
            );
        }
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
            let (granted, faults) = granted(&message).expect("a Connector");
            assert!(!granted.binding.usable && granted.connector.credential.is_none());
            let [fault] = faults.as_slice() else {
                panic!("{faults:?}");
            };
            let fault = fault.to_string();
            assert!(
                fault.contains("team/api") && fault.contains(expected),
                "{fault}"
            );
        }
    }

    fn at(host: &str, port: u32) -> wire::Address {
        wire::Address {
            tls: true,
            host: host.to_owned(),
            port,
            path: String::new(),
        }
    }

    /// What is in force of a Connector with these addresses: hosts and ports, whether it is
    /// usable, and what is wrong.
    fn in_force(addresses: Vec<wire::Address>) -> (Vec<String>, bool, Vec<String>) {
        let message = wire::Connector {
            addresses,
            credential: None,
            ..message("")
        };
        let (granted, faults) = granted(&message).expect("a Connector");
        let addresses = granted.connector.addresses();
        (
            addresses.map(Address::to_string).collect(),
            granted.binding.usable,
            faults.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn an_extension_that_cannot_be_costs_nothing_but_itself() {
        let good = || at("api.example.com", 443);
        for bad in [
            at("other.example.com", 65_536),
            at("other.example.com", 0),
            at("", 443),
            at("other.example.com/path", 443),
            at("me@other.example.com", 443),
            at("OTHER.example.com", 443),
        ] {
            let more = at("192.0.2.1", 8443);
            let (addresses, usable, faults) = in_force(vec![good(), bad.clone(), more]);
            assert!(usable, "{}:{}", bad.host, bad.port);
            assert_eq!(
                addresses,
                ["https://api.example.com", "https://192.0.2.1:8443"],
                "{}:{}",
                bad.host,
                bad.port
            );
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].contains("team/api goes without its address extension 1"));
        }
        let (addresses, usable, faults) = in_force(vec![good(), at("2001:db8::1", 443)]);
        assert!(usable && faults.is_empty(), "{faults:?}");
        assert_eq!(addresses[1], "https://[2001:db8::1]");
    }

    #[test]
    fn a_connector_whose_own_address_cannot_be_is_refused_where_that_is_possible() {
        let extension = || at("more.example.com", 443);
        let (addresses, usable, faults) =
            in_force(vec![at("api.example.com", 70_000), extension()]);
        assert!(!usable);
        assert_eq!(
            addresses,
            ["https://api.example.com", "https://more.example.com"]
        );
        assert!(faults[0].contains("team/api is not in force"), "{faults:?}");
        let (addresses, usable, _) = in_force(vec![at("", 443), extension()]);
        assert!(!usable);
        assert_eq!(addresses, ["https://more.example.com"]);
        for addresses in [vec![], vec![at("", 443)]] {
            let message = wire::Connector {
                addresses,
                ..message("")
            };
            let error = granted(&message).expect_err("nothing to refuse");
            assert!(matches!(error, WireError::NoAddress(_)), "{error}");
        }
    }
}
