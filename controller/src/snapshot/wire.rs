//! From our types to those of the protocol.

use connectors::{
    Address, ClientAuthorization, Credential, FailurePolicy, OnUntrustedCa, Protocol, Scheme,
    generator::Generated,
};
use prost::Message as _;
use proxy_common::distribution::{self as wire, credential::Kind};
use secrecy::{ExposeSecret as _, SecretString};

use super::catalog::Entry;
use crate::grants::{Pod, PolicyId, is_undecided};

pub(super) fn connector(entry: &Entry) -> wire::Connector {
    let connector = &entry.connector;
    wire::Connector {
        id: connector.id.0,
        namespace: connector.namespace.clone(),
        name: connector.name.clone(),
        class: connector.class.clone(),
        addresses: connector.addresses().map(address).collect(),
        protocol: match connector.protocol {
            Protocol::Http => wire::Protocol::Http,
            Protocol::Oci => wire::Protocol::Oci,
        }
        .into(),
        credential: connector.credential.as_ref().map(credential),
        client_authorization: match connector.client_authorization {
            ClientAuthorization::Replace => wire::ClientAuthorization::Replace,
            ClientAuthorization::Keep => wire::ClientAuthorization::Keep,
            ClientAuthorization::Reject => wire::ClientAuthorization::Reject,
        }
        .into(),
        failure_policy: match connector.failure_policy {
            FailurePolicy::Closed => wire::FailurePolicy::Closed,
            FailurePolicy::Open => wire::FailurePolicy::Open,
        }
        .into(),
        extra_roots: connector
            .extra_roots
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        usable: entry.usable,
        generation: entry.generation,
        revision: entry.revision,
        on_untrusted_ca: match connector.on_untrusted_ca {
            OnUntrustedCa::Fail => wire::OnUntrustedCa::Fail,
            OnUntrustedCa::Passthrough => wire::OnUntrustedCa::Passthrough,
        }
        .into(),
        undecided: is_undecided(connector.id),
    }
}

/// What a Connector takes of a message, bytes.
pub(super) fn size(entry: &Entry) -> usize {
    field(connector(entry).encoded_len())
}

/// What a field with a message of this length takes, bytes: the field's number and the length
/// are before it.
pub(super) fn field(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

/// Most that a policy with so many Connectors takes of a message, bytes.
pub(super) fn policy_size(connectors: usize) -> usize {
    // Numbers take five bytes at most; before them are two fields.
    field(5 * connectors + 2 * 6)
}

/// What a workload takes of a message at most, bytes.
pub(super) fn workload_size(pod: &Pod) -> usize {
    field(workload(pod, PolicyId::MAX, true).encoded_len())
}

pub(super) fn workload(pod: &Pod, policy: PolicyId, pending: bool) -> wire::Workload {
    wire::Workload {
        pod_uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        service_account: pod.service_account.clone(),
        policy,
        ips: pod.ips.clone(),
        host_network: pod.host_network,
        pending,
    }
}

fn address(address: &Address) -> wire::Address {
    wire::Address {
        tls: address.scheme == Scheme::Https,
        host: address.host.clone(),
        port: address.port.into(),
        path: address.path.clone(),
    }
}

/// The messages are wiped when they are dropped.
fn credential(credential: &Credential) -> wire::Credential {
    let text = |secret: &SecretString| secret.expose_secret().to_owned();
    let kind = match credential {
        Credential::Basic { username, password } => Kind::Basic(wire::Basic {
            username: text(username),
            password: text(password),
        }),
        Credential::Bearer { token } => Kind::Bearer(wire::Bearer { token: text(token) }),
        Credential::IdentityToken { token } => {
            Kind::IdentityToken(wire::IdentityToken { token: text(token) })
        }
        Credential::Generated(it) => Kind::Generated(generated(it)),
        Credential::Certificate {
            certificate,
            generated: also,
        } => Kind::Certificate(wire::Certificate {
            chain: certificate.chain().iter().map(|it| it.to_vec()).collect(),
            key: certificate.key().to_vec(),
            generated: also.as_deref().map(generated),
        }),
    };
    wire::Credential { kind: Some(kind) }
}

fn generated(generated: &Generated) -> wire::Generated {
    let data = generated.data().iter();
    let data = data.map(|(key, value)| wire::SecretValue {
        key: key.clone(),
        value: value.expose_secret().to_owned(),
    });
    wire::Generated {
        rego: generated.rego().to_owned(),
        data: data.collect(),
        params: generated.params().clone().into_iter().collect(),
    }
}
