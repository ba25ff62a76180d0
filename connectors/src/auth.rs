//! `spec.auth`: which authentication type, which Secret, and do they fit.

use proxy_common::api::{self, AuthType};

use super::class::{self, Class};
use super::client_certificate::TLS;
use super::error::{Findings, Problem};
use super::rules::{self, Wanted};
use super::secret::{self, Accepts, SecretData};
use super::{Address, Credential, Scheme};

/// The result of `spec.auth`.
#[derive(Default)]
pub(super) struct Auth {
    /// Name of the authentication type.
    pub(super) type_: Option<String>,
    pub(super) secret: Option<SecretData>,
    pub(super) credential: Option<Credential>,
}

/// The field that names the Secret.
pub(super) const SECRET_FIELD: &str = "spec.auth.secretRef.name";

/// Applies `spec.auth` of the Connector `title`; `None` means that there are findings, or
/// that `find` did not find the Secret. `wanted` is the rest of the `spec`; `address` its own.
#[expect(clippy::too_many_arguments, reason = "each is another object")]
pub(super) fn resolve<'a>(
    spec: &api::ConnectorSpec,
    class: &Class,
    namespace: &str,
    wanted: &Wanted,
    address: &Address,
    title: &str,
    find: impl FnOnce(Option<&str>, &mut Findings<'_>) -> Option<&'a SecretData>,
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
    let named = name.map(|name| find_type(types, name, findings));
    let secret = find(reference.name.as_deref(), findings)?;
    let auth_type = match named {
        Some(named) => named?,
        None => infer_type(types, class, secret, findings)?,
    };
    if secret::accepts(class.protocol, auth_type, secret.type_()) == Accepts::Not {
        findings.add(SECRET_FIELD, Problem::Reference(format!(
            "the Secret has the type {}, but {} of class {} takes {}: use a Secret of that type",
            secret.type_(),
            auth_type.name,
            spec.connector_class_name.as_deref().unwrap_or_default(),
            auth_type.secret_type.as_deref().unwrap_or_default(),
        )));
        return None;
    }
    let credential = match class::generator(auth_type) {
        Some(rego) => secret::generated(secret, auth_type, rego, &wanted.params, title, findings),
        None => secret::credential(secret, auth_type, address, title, findings),
    };
    if secret.type_() == TLS && !is_shown(address, wanted, findings) {
        return None;
    }
    let credential = credential?;
    Some(Auth {
        type_: Some(auth_type.name.clone()),
        secret: Some(secret.clone()),
        credential: Some(credential),
    })
}

/// Whether all addresses are such that a certificate can be shown there.
fn is_shown(address: &Address, wanted: &Wanted, findings: &mut Findings<'_>) -> bool {
    let all = std::iter::once((rules::FIELD, address))
        .chain(std::iter::repeat("spec.addressExtensions").zip(&wanted.extensions));
    let plain = all.filter(|(_, address)| address.scheme == Scheme::Http);
    let plain = plain.inspect(|(field, address)| {
        findings.add(*field, Problem::Rule(format!(
            "{address} is not encrypted, and the certificate of a Secret of type {TLS} is shown \
             in a TLS handshake only: use an https:// address, or another authentication type"
        )));
    });
    plain.count() == 0
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
            findings.add(SECRET_FIELD, Problem::Reference(problem));
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
