//! From the messages of the protocol to our types.

mod error;

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
        Address, AddressError, ClientAuthorization, ClientCertificate, Connector, ConnectorId,
        Credential, FailurePolicy, OnUntrustedCa, Protocol, Scheme, generator::Generated,
    },
};

pub(super) use error::WireError;

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
mod tests;
