//! One Connector of a cluster, with the objects that it names.
//!
//! In a cluster objects come and go one by one, so a Connector that cannot be used yet is no
//! error: what is wrong is said for each object, and an address that is known is kept, so
//! that connections to it can be refused instead of leaving without the credential.

use std::sync::Arc;

use proxy_common::api;
use rustls_pki_types::CertificateDer;

use super::auth::{self, Auth};
use super::class::Class;
use super::error::{Findings, Place, Problem, StateError};
use super::rules::{self, Wanted};
use super::secret::{self, SecretData};
use super::{Address, Connector, ConnectorId, DEFAULT_NAMESPACE, Origin, Protocol, limits, trust};

/// Names of the objects that a Connector depends on. Secrets are in its own namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References<'a> {
    /// `spec.connectorClassName`.
    pub class: Option<&'a str>,
    /// `spec.auth.secretRef`; `None` also when it names a foreign namespace, because nobody
    /// may even look there.
    pub secret: Option<&'a str>,
    /// `spec.caCertSecretRef`.
    pub ca_secret: Option<&'a str>,
}

impl<'a> References<'a> {
    /// The objects that a Connector names.
    pub fn of(manifest: &'a api::Connector) -> Self {
        let spec = &manifest.spec;
        let (own, _) = key(manifest);
        let is_own = |it: &&api::ObjectReference| {
            it.namespace
                .as_deref()
                .is_none_or(|namespace| namespace.is_empty() || namespace == own)
        };
        let secret = spec.auth.as_ref().and_then(|auth| auth.secret_ref.as_ref());
        let ca_secret = spec.ca_cert_secret_ref.as_ref();
        Self {
            class: named(spec.connector_class_name.as_ref()),
            secret: secret.filter(is_own).and_then(|it| named(it.name.as_ref())),
            ca_secret: ca_secret.and_then(|it| named(it.name.as_ref())),
        }
    }
}

/// The objects behind [`References`]; `None` for those that do not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objects<'a> {
    /// The class.
    pub class: Option<&'a Arc<api::ConnectorClass>>,
    /// The Secret with the credential.
    pub secret: Option<&'a SecretData>,
    /// The Secret with certificates.
    pub ca_secret: Option<&'a SecretData>,
}

/// What was found out about one of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// None is named, and none is needed.
    NotNeeded,
    /// It does not exist.
    NotFound,
    /// It cannot be judged without a class.
    NotJudged,
    /// It has faults, or does not fit; never empty.
    Unfit(Vec<StateError>),
    /// It is there and fits.
    Sound,
}

impl Part {
    fn is_good(&self) -> bool {
        matches!(self, Self::Sound | Self::NotNeeded)
    }
}

/// What came of a Connector.
#[derive(Debug)]
pub struct Resolution {
    /// The Connector; `None` without an address. It has a credential only if it is usable.
    pub connector: Option<Connector>,
    /// What it was made of; `None` unless it is usable.
    pub origin: Option<Origin>,
    /// Faults of the Connector itself, apart from `spec.auth` and `spec.caCertSecretRef`.
    pub faults: Vec<StateError>,
    /// The class.
    pub class: Part,
    /// The Secret with the credential, and `spec.auth`.
    pub secret: Part,
    /// The Secret with certificates; the others are trusted without it.
    pub ca_secret: Part,
}

impl Resolution {
    /// Whether requests can be authenticated; certificates are not looked at.
    pub fn is_usable(&self) -> bool {
        self.origin.is_some()
    }
}

/// Applies every rule to a Connector and the objects that it names.
pub fn resolve(id: ConnectorId, manifest: &api::Connector, objects: Objects<'_>) -> Resolution {
    let (namespace, name) = key(manifest);
    let place = Place::of("Connector", namespace, name);
    let spec = &manifest.spec;
    let mut faults = Vec::new();
    let findings = &mut Findings::new(&place, &mut faults);

    let taken = rules::interception(spec.interception.as_ref(), findings);
    let (ca_secret, extra_roots) = ca_secret(manifest, objects.ca_secret, &place);
    let (class_part, class) = class(manifest, objects.class, &place);
    let wanted = match &class {
        Some(class) => Wanted::read(spec, class, findings),
        None => without_class(spec, findings),
    };
    let (secret, auth) = match &class {
        Some(class) => auth(manifest, class, &wanted, objects, &place),
        None => (unjudged(manifest, objects), None),
    };

    let usable = faults.is_empty() && class_part.is_good() && secret.is_good();
    let auth = auth.unwrap_or_default();
    let protocol = class.as_ref().map_or(Protocol::Http, |it| it.protocol);
    let origin = class.filter(|_| usable).map(|class| Origin {
        id,
        manifest: manifest.clone(),
        class: class.manifest,
        auth_type: auth.type_,
        params: wanted.params,
        address_extensions: wanted.address_extensions,
        secret: auth.secret,
    });
    let connector = wanted.address.map(|address| Connector {
        id,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        class: spec.connector_class_name.clone().unwrap_or_default(),
        address,
        extensions: wanted.extensions,
        protocol,
        credential: auth.credential.filter(|_| usable),
        client_authorization: taken.client_authorization,
        failure_policy: taken.failure_policy,
        on_untrusted_ca: taken.on_untrusted_ca,
        extra_roots,
    });
    Resolution {
        connector,
        origin,
        faults,
        class: class_part,
        secret,
        ca_secret,
    }
}

fn class(
    manifest: &api::Connector,
    class: Option<&Arc<api::ConnectorClass>>,
    place: &Place,
) -> (Part, Option<Class>) {
    if References::of(manifest).class.is_none() {
        let wanted = Problem::MissingFor("name a ConnectorClass".to_owned());
        return (unfit(place, "spec.connectorClassName", wanted), None);
    }
    let Some(class) = class else {
        return (Part::NotFound, None);
    };
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let place = Place::of("ConnectorClass", "", name);
    let mut faults = Vec::new();
    let class = Class::new(Arc::clone(class), &mut Findings::new(&place, &mut faults));
    (judged(faults), Some(class))
}

/// What can be said of addresses without a class.
fn without_class(spec: &api::ConnectorSpec, findings: &mut Findings<'_>) -> Wanted {
    let address = rules::given(spec.address.as_deref(), findings).and_then(|text| {
        Address::parse(text)
            .map_err(|error| findings.add(rules::FIELD, error.into()))
            .ok()
    });
    let extensions = spec
        .address_extensions
        .iter()
        .take(limits::EXTENSIONS)
        .filter_map(|param| Address::parse(param.value.as_str()?).ok())
        .collect();
    Wanted {
        address,
        extensions,
        address_extensions: Vec::new(),
        params: Vec::new(),
    }
}

fn auth(
    manifest: &api::Connector,
    class: &Class,
    wanted: &Wanted,
    objects: Objects<'_>,
    place: &Place,
) -> (Part, Option<Auth>) {
    let Some(address) = &wanted.address else {
        return (unjudged(manifest, objects), None);
    };
    let (namespace, name) = key(manifest);
    let mut faults = Vec::new();
    let mut found = true;
    let auth = auth::resolve(
        &manifest.spec,
        class,
        namespace,
        wanted,
        address,
        &format!("Connector {namespace}/{name}"),
        |name, findings| {
            secret::required_name(name, auth::SECRET_FIELD, findings)?;
            found = objects.secret.is_some();
            objects.secret
        },
        &mut Findings::new(place, &mut faults),
    );
    let part = match &auth {
        _ if !found => Part::NotFound,
        Some(auth) if auth.secret.is_none() && faults.is_empty() => Part::NotNeeded,
        _ => judged(faults),
    };
    (part, auth)
}

/// A Secret that nothing can be said of but whether it exists.
fn unjudged(manifest: &api::Connector, objects: Objects<'_>) -> Part {
    match (References::of(manifest).secret, objects.secret) {
        (Some(_), None) => Part::NotFound,
        _ => Part::NotJudged,
    }
}

fn ca_secret(
    manifest: &api::Connector,
    secret: Option<&SecretData>,
    place: &Place,
) -> (Part, Arc<[CertificateDer<'static>]>) {
    if manifest.spec.ca_cert_secret_ref.is_none() {
        return (Part::NotNeeded, Arc::default());
    }
    if References::of(manifest).ca_secret.is_none() {
        let wanted = Problem::MissingFor("name the Secret".to_owned());
        return (
            unfit(place, "spec.caCertSecretRef.name", wanted),
            Arc::default(),
        );
    }
    let Some(secret) = secret else {
        return (Part::NotFound, Arc::default());
    };
    let (namespace, name) = key(manifest);
    let mut faults = Vec::new();
    let certificates = trust::certificates(
        secret,
        &format!("Connector {namespace}/{name}"),
        &mut Findings::new(place, &mut faults),
    );
    (judged(faults), certificates)
}

fn judged(faults: Vec<StateError>) -> Part {
    if faults.is_empty() {
        Part::Sound
    } else {
        Part::Unfit(faults)
    }
}

fn unfit(place: &Place, field: &str, problem: Problem) -> Part {
    Part::Unfit(vec![StateError {
        place: place.clone(),
        field: field.to_owned(),
        problem,
    }])
}

fn key(manifest: &api::Connector) -> (&str, &str) {
    let metadata = &manifest.metadata;
    (
        named(metadata.namespace.as_ref()).unwrap_or(DEFAULT_NAMESPACE),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn named(name: Option<&String>) -> Option<&str> {
    name.map(String::as_str).filter(|name| !name.is_empty())
}
