//! From manifests to Connectors: classes and Secrets looked up, every rule applied.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proxy_common::api::{self, Param};
use rustls_pki_types::CertificateDer;

use super::auth;
use super::class::{Class, Classes};
use super::error::{Findings, Place, Problem, StateError};
use super::manifest::{Kind, Manifests, Placed};
use super::rules::{Wanted, interception};
use super::secret::{self, SecretData};
use super::{Address, Connector, ConnectorId, trust};

/// What a Connector was made of; templates of probes are given this.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The Connector that came of it.
    pub id: ConnectorId,
    /// The manifest as it was written.
    pub manifest: api::Connector,
    /// Its class.
    pub class: Arc<api::ConnectorClass>,
    /// Name of the authentication type in use; `None` without `spec.auth`.
    pub auth_type: Option<String>,
    /// `spec.params` with the defaults of the class.
    pub params: Vec<Param>,
    /// `spec.addressExtensions` with the defaults of the class.
    pub address_extensions: Vec<Param>,
    /// The Secret of `spec.auth.secretRef`.
    pub secret: Option<SecretData>,
}

/// Resolves everything that was read. Faults are added to `errors`; Connectors that have
/// any are left out.
pub(super) fn resolve(
    manifests: Manifests,
    errors: &mut Vec<StateError>,
) -> Vec<(Connector, Origin)> {
    let secrets = Secrets::new(&manifests, errors);
    let classes = Classes::new(manifests.classes, errors);
    let mut resolver = Resolver {
        classes,
        secrets,
        broken: manifests.broken,
        addresses: HashMap::new(),
    };
    let mut resolved = Vec::with_capacity(manifests.connectors.len());
    for (number, connector) in (1..).zip(manifests.connectors) {
        let before = errors.len();
        let place = connector.place.clone();
        let mut findings = Findings::new(&place, errors);
        let pair = resolver.connector(ConnectorId(number), connector, &mut findings);
        if errors.len() == before {
            resolved.extend(pair);
        }
    }
    resolved
}

/// The Secrets of the manifests, by namespace and name.
#[derive(Debug)]
pub(super) struct Secrets {
    decoded: HashMap<(String, String), SecretData>,
    /// Those with faults; whoever refers to one must not be told that it is missing.
    broken: HashSet<(String, String)>,
}

impl Secrets {
    fn new(manifests: &Manifests, errors: &mut Vec<StateError>) -> Self {
        let broken = manifests
            .broken
            .iter()
            .filter(|(kind, ..)| *kind == Kind::Secret);
        let mut secrets = Self {
            decoded: HashMap::new(),
            broken: broken
                .map(|(_, namespace, name)| (namespace.clone(), name.clone()))
                .collect(),
        };
        for secret in &manifests.secrets {
            let before = errors.len();
            let data = SecretData::decode(secret, &mut Findings::new(&secret.place, errors));
            let key = (secret.namespace.clone(), secret.name.clone());
            if errors.len() == before {
                secrets.decoded.insert(key, data);
            } else {
                secrets.broken.insert(key);
            }
        }
        secrets
    }

    /// `None` means that there are findings, here or at the Secret itself.
    pub(super) fn find(
        &self,
        namespace: &str,
        name: Option<&str>,
        field: &str,
        findings: &mut Findings<'_>,
    ) -> Option<&SecretData> {
        let name = secret::required_name(name, field, findings)?;
        let key = (namespace.to_owned(), name.to_owned());
        let secret = self.decoded.get(&key);
        if secret.is_none() && !self.broken.contains(&key) {
            findings.add(field, Problem::Reference(format!(
                "there is no Secret {namespace}/{name}: add it to the files, or correct the name"
            )));
        }
        secret
    }
}

struct Resolver {
    classes: Classes,
    secrets: Secrets,
    broken: HashSet<(Kind, String, String)>,
    /// Host, port and path of every address so far, and whose it is.
    addresses: HashMap<(String, u16, String), String>,
}

impl Resolver {
    /// `None` means that there are findings.
    fn connector(
        &mut self,
        id: ConnectorId,
        placed: Placed<api::Connector>,
        findings: &mut Findings<'_>,
    ) -> Option<(Connector, Origin)> {
        let Placed {
            place,
            namespace,
            name,
            object: manifest,
        } = placed;
        let title = format!("Connector {namespace}/{name}");
        let spec = &manifest.spec;
        let taken = interception(spec.interception.as_ref(), findings);
        let extra_roots = self.extra_roots(spec, &namespace, &title, findings);
        // Without the class, nothing more can be said.
        let class = self
            .class(spec.connector_class_name.as_deref(), findings)?
            .clone();

        let wanted = Wanted::read(spec, &class, findings);
        for (field, address) in std::iter::once("spec.address")
            .zip(&wanted.address)
            .chain(std::iter::repeat("spec.addressExtensions").zip(&wanted.extensions))
        {
            self.claim(address, field, &title, &place, findings);
        }
        let address = wanted.address.clone()?;
        let auth = auth::resolve(
            spec,
            &class,
            &namespace,
            &wanted,
            &address,
            &title,
            |name, findings| {
                self.secrets
                    .find(&namespace, name, auth::SECRET_FIELD, findings)
            },
            findings,
        )?;

        let connector = Connector {
            id,
            namespace,
            name,
            class: spec.connector_class_name.clone().unwrap_or_default(),
            address,
            extensions: wanted.extensions,
            protocol: class.protocol,
            credential: auth.credential,
            client_authorization: taken.client_authorization,
            failure_policy: taken.failure_policy,
            on_untrusted_ca: taken.on_untrusted_ca,
            extra_roots,
        };
        let origin = Origin {
            id,
            class: class.manifest,
            auth_type: auth.type_,
            params: wanted.params,
            address_extensions: wanted.address_extensions,
            secret: auth.secret,
            manifest,
        };
        Some((connector, origin))
    }

    fn class(&self, name: Option<&str>, findings: &mut Findings<'_>) -> Option<&Class> {
        const FIELD: &str = "spec.connectorClassName";
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let names = self.classes.names().join(", ");
            findings.add(FIELD, Problem::MissingFor(format!("use one of {names}")));
            return None;
        };
        let class = self.classes.get(name);
        let broken = (Kind::ConnectorClass, String::new(), name.to_owned());
        if class.is_none() && !self.broken.contains(&broken) {
            let names = self.classes.names().join(", ");
            findings.add(FIELD, Problem::Reference(format!(
                "there is no ConnectorClass `{name}`: add it to the files, or use one of {names}"
            )));
        }
        class
    }

    /// Notes that an address belongs to a Connector, unless another one has it.
    fn claim(
        &mut self,
        address: &Address,
        field: &str,
        title: &str,
        place: &Place,
        findings: &mut Findings<'_>,
    ) {
        let key = (address.host.clone(), address.port, address.path.clone());
        let place = Place {
            object: None,
            ..place.clone()
        };
        if let Some(other) = self.addresses.get(&key) {
            findings.add(
                field,
                Problem::AddressTaken {
                    other: other.clone(),
                },
            );
        } else {
            self.addresses.insert(key, format!("{title} ({place})"));
        }
    }

    fn extra_roots(
        &self,
        spec: &api::ConnectorSpec,
        namespace: &str,
        title: &str,
        findings: &mut Findings<'_>,
    ) -> Arc<[CertificateDer<'static>]> {
        let Some(reference) = &spec.ca_cert_secret_ref else {
            return Arc::default();
        };
        let field = "spec.caCertSecretRef.name";
        self.secrets
            .find(namespace, reference.name.as_deref(), field, findings)
            .map(|secret| trust::certificates(secret, title, findings))
            .unwrap_or_default()
    }
}
