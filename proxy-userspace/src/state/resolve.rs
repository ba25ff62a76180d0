//! From manifests to Connectors: classes and Secrets looked up, every rule applied.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proxy_common::api::{
    self, AuthType, ClientAuthorizationName, EgressName, FailurePolicyName, Interception, Param,
    UntrustedCaPolicy,
};

use super::class::{self, Class, Classes};
use super::error::{Findings, Place, Problem, StateError};
use super::manifest::{Kind, Manifests, Placed};
use super::secret::{self, Accepts, SecretData};
use super::{
    Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy, params, trust,
};

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
    let classes = Classes::new(manifests.classes, errors);
    let secrets = decode(&manifests.secrets, errors);
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

fn decode(secrets: &[Placed<api::Secret>], errors: &mut Vec<StateError>) -> Secrets {
    let decode = |secret: &Placed<api::Secret>| {
        let data = SecretData::decode(secret, &mut Findings::new(&secret.place, errors));
        ((secret.namespace.clone(), secret.name.clone()), data)
    };
    secrets.iter().map(decode).collect()
}

/// Secrets by namespace and name.
type Secrets = HashMap<(String, String), SecretData>;

struct Resolver {
    classes: Classes,
    secrets: Secrets,
    broken: HashSet<(Kind, String, String)>,
    /// Host, port and path of every address so far, and whose it is.
    addresses: HashMap<(String, u16, String), String>,
}

/// The result of `spec.auth`.
#[derive(Default)]
struct Auth {
    type_: Option<String>,
    secret: Option<SecretData>,
    credential: Option<Credential>,
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
        let (client_authorization, failure_policy) =
            interception(spec.interception.as_ref(), findings);
        let extra_roots = self.extra_roots(spec, &namespace, &title, findings);
        // Without the class, nothing more can be said.
        let class = self
            .class(spec.connector_class_name.as_deref(), findings)?
            .clone();

        let address = address(spec.address.as_deref(), &class, findings);
        let (address_extensions, extensions) = params::extensions(
            &spec.address_extensions,
            &class.manifest.spec.address_extensions,
            address.as_ref(),
            class.protocol,
            findings,
        );
        for (field, address) in std::iter::once("spec.address")
            .zip(&address)
            .chain(std::iter::repeat("spec.addressExtensions").zip(&extensions))
        {
            self.claim(address, field, &title, &place, findings);
        }
        let params = params::resolve(
            "spec.params",
            &spec.params,
            &class.manifest.spec.params,
            findings,
        );
        let address = address?;
        let auth = self.auth(spec, &class, &namespace, &address, &title, findings)?;

        let connector = Connector {
            id,
            namespace,
            name,
            class: spec.connector_class_name.clone().unwrap_or_default(),
            address,
            extensions,
            protocol: class.protocol,
            credential: auth.credential,
            client_authorization,
            failure_policy,
            extra_roots,
        };
        let origin = Origin {
            id,
            class: class.manifest,
            auth_type: auth.type_,
            params,
            address_extensions,
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

    fn secret(
        &self,
        namespace: &str,
        name: Option<&str>,
        field: &str,
        findings: &mut Findings<'_>,
    ) -> Option<&SecretData> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            findings.add(field, Problem::MissingFor("name the Secret".to_owned()));
            return None;
        };
        let key = (namespace.to_owned(), name.to_owned());
        let secret = self.secrets.get(&key);
        if secret.is_none() && !self.broken.contains(&(Kind::Secret, key.0, key.1)) {
            findings.add(field, Problem::Reference(format!(
                "there is no Secret {namespace}/{name}: add it to the files, or correct the name"
            )));
        }
        secret
    }

    fn extra_roots(
        &self,
        spec: &api::ConnectorSpec,
        namespace: &str,
        title: &str,
        findings: &mut Findings<'_>,
    ) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        let Some(reference) = &spec.ca_cert_secret_ref else {
            return Vec::new();
        };
        let field = "spec.caCertSecretRef.name";
        self.secret(namespace, reference.name.as_deref(), field, findings)
            .map(|secret| trust::certificates(secret, title, findings))
            .unwrap_or_default()
    }

    /// `None` means that there are findings.
    fn auth(
        &self,
        spec: &api::ConnectorSpec,
        class: &Class,
        namespace: &str,
        address: &Address,
        title: &str,
        findings: &mut Findings<'_>,
    ) -> Option<Auth> {
        let types = class.auth_types();
        let given = spec.auth.as_ref();
        let name = given
            .and_then(|auth| auth.name.as_deref())
            .filter(|name| !name.is_empty());
        let Some(reference) = given.and_then(|auth| auth.secret_ref.as_ref()) else {
            return without_secret(types, name, findings);
        };
        if !reference_is_sound(reference, namespace, findings) {
            return None;
        }
        let field = "spec.auth.secretRef.name";
        let named = name.map(|name| find_type(types, name, findings));
        let secret = self.secret(namespace, reference.name.as_deref(), field, findings)?;
        let auth_type = match named {
            Some(named) => named?,
            None => infer_type(types, class, secret, findings)?,
        };
        if secret::accepts(class.protocol, auth_type, secret.type_()) == Accepts::Not {
            findings.add(field, Problem::Reference(format!(
                "the Secret has the type {}, but {} of class {} takes {}: use a Secret of that type",
                secret.type_(),
                auth_type.name,
                spec.connector_class_name.as_deref().unwrap_or_default(),
                auth_type.secret_type.as_deref().unwrap_or_default(),
            )));
            return None;
        }
        if has_generator(auth_type) {
            findings.add("spec.auth.name", generator_unsupported(auth_type));
            return None;
        }
        let credential = secret::credential(secret, auth_type, address, title, findings)?;
        Some(Auth {
            type_: Some(auth_type.name.clone()),
            secret: Some(secret.clone()),
            credential: Some(credential),
        })
    }
}

fn address(text: Option<&str>, class: &Class, findings: &mut Findings<'_>) -> Option<Address> {
    const FIELD: &str = "spec.address";
    let Some(text) = text else {
        let example = "write one such as https://registry.example.com".to_owned();
        findings.add(FIELD, Problem::MissingFor(example));
        return None;
    };
    let allowed = class
        .manifest
        .spec
        .address
        .as_ref()
        .map_or(&[][..], |spec| &spec.enum_);
    if !allowed.is_empty() && !allowed.iter().any(|it| it == text) {
        findings.add(FIELD, params::one_of(allowed));
        return None;
    }
    match params::parse(text, class.protocol) {
        Ok(address) => Some(address),
        Err(problem) => {
            findings.add(FIELD, problem);
            None
        }
    }
}

/// A Connector without a Secret: fine where the class says so.
fn without_secret(
    types: &[AuthType],
    name: Option<&str>,
    findings: &mut Findings<'_>,
) -> Option<Auth> {
    let optional = |auth: &AuthType| auth.optional.unwrap_or(false);
    match name {
        Some(name) => {
            let auth_type = find_type(types, name, findings)?;
            if optional(auth_type) {
                return Some(Auth {
                    type_: Some(name.to_owned()),
                    ..Auth::default()
                });
            }
        }
        None if types.is_empty() || types.iter().any(optional) => return Some(Auth::default()),
        None => {}
    }
    let wanted = "the class does not work without a Secret: name one in this namespace";
    findings.add(
        "spec.auth.secretRef",
        Problem::MissingFor(wanted.to_owned()),
    );
    None
}

/// Rules about a reference that need no look at the Secret.
fn reference_is_sound(
    reference: &api::ObjectReference,
    namespace: &str,
    findings: &mut Findings<'_>,
) -> bool {
    let foreign = reference
        .namespace
        .as_deref()
        .filter(|it| !it.is_empty() && *it != namespace);
    if foreign.is_some() {
        // Otherwise anyone who may write a Connector could spend a foreign Secret.
        findings.add("spec.auth.secretRef.namespace", Problem::Rule(format!(
            "must be the Connector's own namespace, {namespace}: leave it out, and put the Secret \
             there"
        )));
    }
    let other_kind = reference
        .kind
        .as_deref()
        .is_some_and(|kind| kind != "Secret");
    if other_kind {
        findings.add(
            "spec.auth.secretRef.kind",
            Problem::Rule("must be Secret".to_owned()),
        );
    }
    foreign.is_none() && !other_kind
}

fn find_type<'a>(
    types: &'a [AuthType],
    name: &str,
    findings: &mut Findings<'_>,
) -> Option<&'a AuthType> {
    let found = types.iter().find(|auth| auth.name == name);
    if found.is_none() {
        let problem = if types.is_empty() {
            format!(
                "the class has no authentication type `{name}`, nor any other: remove spec.auth"
            )
        } else {
            let names = class::names(types);
            format!("the class has no authentication type `{name}`: use {names}")
        };
        findings.add("spec.auth.name", Problem::Reference(problem));
    }
    found
}

/// The one authentication type that a Secret can be meant for.
fn infer_type<'a>(
    types: &'a [AuthType],
    class: &Class,
    secret: &SecretData,
    findings: &mut Findings<'_>,
) -> Option<&'a AuthType> {
    let matching = |how| {
        types
            .iter()
            .filter(|auth| secret::accepts(class.protocol, auth, secret.type_()) == how)
            .collect::<Vec<_>>()
    };
    match (
        &matching(Accepts::Exactly)[..],
        &matching(Accepts::Leniently)[..],
    ) {
        ([one], _) => Some(*one),
        // Registries: whichever is taken, the same user and password come of it.
        ([], [first, ..]) => Some(*first),
        ([], []) => {
            let takes: Vec<&str> = types
                .iter()
                .filter_map(|auth| auth.secret_type.as_deref())
                .collect();
            let problem = if takes.is_empty() {
                "the class takes no Secret: remove spec.auth".to_owned()
            } else {
                format!(
                    "the Secret has the type {}, which no authentication type of the class takes: \
                     use a Secret of type {}",
                    secret.type_(),
                    takes.join(" or ")
                )
            };
            findings.add("spec.auth.secretRef.name", Problem::Reference(problem));
            None
        }
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|auth| &*auth.name).collect();
            let choice = format!("the Secret fits several: use one of {}", names.join(", "));
            findings.add("spec.auth.name", Problem::MissingFor(choice));
            None
        }
    }
}

fn has_generator(auth_type: &AuthType) -> bool {
    auth_type
        .generator
        .as_ref()
        .is_some_and(|generator| generator.rego.is_some())
}

fn generator_unsupported(auth_type: &AuthType) -> Problem {
    Problem::Unsupported {
        what: format!(
            "{}, whose class makes the credential with generator.rego,",
            auth_type.name
        ),
        instead: "use an authentication type without a generator",
    }
}

/// The parts of `spec.interception` in force; parts not acted upon are findings, because a
/// rule that is read and then not kept is worse than none.
fn interception(
    given: Option<&Interception>,
    findings: &mut Findings<'_>,
) -> (ClientAuthorization, FailurePolicy) {
    let Some(given) = given else {
        return Default::default();
    };
    let mut unsupported = |field: &str, what: &str, instead| {
        let what = what.to_owned();
        findings.add(
            format!("spec.interception.{field}"),
            Problem::Unsupported { what, instead },
        );
    };
    if given.mode.is_some() {
        unsupported("mode", "limiting a Connector to one mode", "leave it out");
    }
    if given.egress == Some(EgressName::Pod) {
        unsupported("egress", "Pod", "leave it out, or use Node");
    }
    if given.on_untrusted_ca == Some(UntrustedCaPolicy::Passthrough) {
        unsupported("onUntrustedCA", "Passthrough", "leave it out, or use Fail");
    }
    let client_authorization = match given.client_authorization {
        None | Some(ClientAuthorizationName::Replace) => ClientAuthorization::Replace,
        Some(ClientAuthorizationName::Keep) => ClientAuthorization::Keep,
        Some(ClientAuthorizationName::Reject) => ClientAuthorization::Reject,
    };
    let failure_policy = match given.failure_policy {
        None | Some(FailurePolicyName::Closed) => FailurePolicy::Closed,
        Some(FailurePolicyName::Open) => FailurePolicy::Open,
    };
    (client_authorization, failure_policy)
}
