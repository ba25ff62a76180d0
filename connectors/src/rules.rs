//! The rules about `spec` of a Connector that need no other object than its class.

use proxy_common::api::{
    ClientAuthorizationName, ConnectorSpec, EgressName, FailurePolicyName, Interception, Param,
    UntrustedCaPolicy,
};

use super::class::Class;
use super::error::{Findings, Problem};
use super::{Address, ClientAuthorization, FailurePolicy, OnUntrustedCa, params};

/// What a Connector's `spec` says under the rules of its class.
pub(super) struct Wanted {
    /// `None` means that there are findings.
    pub(super) address: Option<Address>,
    /// Addresses of the extensions.
    pub(super) extensions: Vec<Address>,
    /// `spec.addressExtensions` with the defaults of the class.
    pub(super) address_extensions: Vec<Param>,
    /// `spec.params` with the defaults of the class.
    pub(super) params: Vec<Param>,
}

impl Wanted {
    pub(super) fn read(spec: &ConnectorSpec, class: &Class, findings: &mut Findings<'_>) -> Self {
        let address = address(spec.address.as_deref(), class, findings);
        let (address_extensions, extensions) = params::extensions(
            &spec.address_extensions,
            &class.manifest.spec.address_extensions,
            address.as_ref(),
            class.protocol,
            findings,
        );
        let params = params::resolve(
            "spec.params",
            &spec.params,
            &class.manifest.spec.params,
            findings,
        );
        Self {
            address,
            extensions,
            address_extensions,
            params,
        }
    }
}

fn address(text: Option<&str>, class: &Class, findings: &mut Findings<'_>) -> Option<Address> {
    let text = given(text, findings)?;
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

/// The field of the address.
pub(super) const FIELD: &str = "spec.address";

/// The text of `spec.address`; `None` means that there is a finding.
pub(super) fn given<'a>(text: Option<&'a str>, findings: &mut Findings<'_>) -> Option<&'a str> {
    if text.is_none() {
        let example = "write one such as https://registry.example.com".to_owned();
        findings.add(FIELD, Problem::MissingFor(example));
    }
    text
}

/// The parts of `spec.interception` in force.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) client_authorization: ClientAuthorization,
    pub(super) failure_policy: FailurePolicy,
    pub(super) on_untrusted_ca: OnUntrustedCa,
}

/// What `spec.interception` says; parts not acted upon are findings, because a
/// rule that is read and then not kept is worse than none.
pub(super) fn interception(given: Option<&Interception>, findings: &mut Findings<'_>) -> Taken {
    let Some(given) = given else {
        return Taken::default();
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
    let client_authorization = match given.client_authorization {
        None | Some(ClientAuthorizationName::Replace) => ClientAuthorization::Replace,
        Some(ClientAuthorizationName::Keep) => ClientAuthorization::Keep,
        Some(ClientAuthorizationName::Reject) => ClientAuthorization::Reject,
    };
    let failure_policy = match given.failure_policy {
        None | Some(FailurePolicyName::Closed) => FailurePolicy::Closed,
        Some(FailurePolicyName::Open) => FailurePolicy::Open,
    };
    let on_untrusted_ca = match given.on_untrusted_ca {
        None | Some(UntrustedCaPolicy::Fail) => OnUntrustedCa::Fail,
        Some(UntrustedCaPolicy::Passthrough) => OnUntrustedCa::Passthrough,
    };
    Taken {
        client_authorization,
        failure_policy,
        on_untrusted_ca,
    }
}
