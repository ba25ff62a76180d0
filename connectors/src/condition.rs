//! Conditions of a Connector, and how they add up to `Ready`.

use std::fmt;
use std::time::SystemTime;

pub use proxy_common::api::ConditionStatus;

use super::{CERTIFICATE_KEY, Connector};

/// What can be observed about a Connector. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The class exists and is usable.
    ConnectorClassReady,
    /// The Secret exists and fits the class.
    SecretReady,
    /// The upstream answers.
    LivenessReady,
    /// The upstream accepts the credential.
    AuthReady,
    /// Reverse mode has an address.
    ProxyServiceReady,
    /// The Connector's own authorities are readable; for information only.
    CACertReady,
    /// All of it.
    Ready,
}

impl ConditionType {
    /// Whether the condition counts towards `Ready`.
    pub fn feeds_ready(self) -> bool {
        !matches!(self, Self::CACertReady | Self::Ready)
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ConnectorClassReady => "ConnectorClassReady",
            Self::SecretReady => "SecretReady",
            Self::LivenessReady => "LivenessReady",
            Self::AuthReady => "AuthReady",
            Self::ProxyServiceReady => "ProxyServiceReady",
            Self::CACertReady => "CACertReady",
            Self::Ready => "Ready",
        })
    }
}

/// Reasons that the API fixes.
pub mod reason {
    /// The class does not exist.
    pub const CONNECTOR_CLASS_NOT_FOUND: &str = "ConnectorClassNotFound";
    /// The class contradicts itself.
    pub const INVALID_CONNECTOR_CLASS: &str = "InvalidConnectorClass";
    /// A Secret does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// The Secret, or how `spec.auth` names it, does not fit the class.
    pub const INVALID_SECRET: &str = "InvalidSecret";
    /// The Connector has certificates of its own, and they can be read.
    pub const VALID: &str = "Valid";
    /// The Connector names no certificates of its own.
    pub const NO_CA_CERT: &str = "NoCACert";
    /// The Connector's certificates cannot be read.
    pub const INVALID_PEM: &str = "InvalidPEM";
    /// Another field of the Connector has a fault.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The namespace has more Connectors than nodes are told of.
    pub const TOO_MANY_CONNECTORS: &str = "TooManyConnectors";
    /// No Secret is needed, and none is named.
    pub const SECRET_OPTIONAL: &str = "SecretOptional";
    /// The class has no liveness probe.
    pub const NON_LIVENESS_PROBE: &str = "NonLivenessProbe";
    /// The upstream does not answer as it should.
    pub const CONNECTION_FAILED: &str = "ConnectionFailed";
    /// The class has no probe for this authentication type.
    pub const NON_AUTH_PROBE: &str = "NonAuthProbe";
    /// The upstream does not accept the credential.
    pub const AUTHENTICATION_FAILED: &str = "AuthenticationFailed";
    /// A parameter that the authentication probe needs is not given.
    pub const MISSING_PARAMS: &str = "MissingParams";
    /// The probe of the class cannot be carried out.
    pub const INVALID_PROBE: &str = "InvalidProbe";
}

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What was observed.
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for machines; empty when there is nothing to say.
    pub reason: &'static str,
    /// A sentence for people; empty when there is nothing to say.
    pub message: String,
}

impl Condition {
    /// It holds.
    pub fn holds(type_: ConditionType, reason: &'static str) -> Self {
        Self {
            type_,
            status: ConditionStatus::True,
            reason,
            message: String::new(),
        }
    }

    /// It does not hold.
    pub fn fails(type_: ConditionType, reason: &'static str, message: String) -> Self {
        Self {
            type_,
            status: ConditionStatus::False,
            reason,
            message,
        }
    }

    /// It could not be observed.
    pub fn unknown(type_: ConditionType, reason: &'static str, message: String) -> Self {
        Self {
            type_,
            status: ConditionStatus::Unknown,
            reason,
            message,
        }
    }
}

/// The condition `SecretReady` of a Connector whose certificate is not valid at this time; `None`
/// if it is, or has none.
pub fn untimely(connector: &Connector, now: SystemTime) -> Option<Condition> {
    let what = connector.certificate()?.untimely(now)?;
    let message = format!("the certificate in {CERTIFICATE_KEY} {what}");
    Some(Condition::fails(
        ConditionType::SecretReady,
        reason::INVALID_SECRET,
        message,
    ))
}

/// The condition `Ready`: false when any other is, else unknown when any other is.
pub fn ready(conditions: &[Condition]) -> Condition {
    let first = |status| {
        conditions
            .iter()
            .find(|it| it.type_.feeds_ready() && it.status == status)
    };
    let cause = |status, it: &Condition| Condition {
        type_: ConditionType::Ready,
        status,
        reason: it.reason,
        message: format!("{} does not hold", it.type_),
    };
    if let Some(it) = first(ConditionStatus::False) {
        cause(ConditionStatus::False, it)
    } else if let Some(it) = first(ConditionStatus::Unknown) {
        Condition {
            message: format!("{} is not known", it.type_),
            ..cause(ConditionStatus::Unknown, it)
        }
    } else {
        Condition::holds(ConditionType::Ready, "")
    }
}

#[cfg(test)]
mod tests {
    use super::ConditionStatus::{False, True, Unknown};
    use super::*;

    #[test]
    fn ready_is_the_worst_of_the_others() {
        use ConditionType::{AuthReady, CACertReady, LivenessReady, SecretReady};
        let condition = |(type_, status)| Condition {
            type_,
            status,
            reason: "",
            message: String::new(),
        };
        for (conditions, expected) in [
            (vec![], True),
            (vec![(SecretReady, True), (LivenessReady, True)], True),
            (vec![(SecretReady, True), (LivenessReady, Unknown)], Unknown),
            (vec![(LivenessReady, Unknown), (AuthReady, False)], False),
            (vec![(AuthReady, True), (CACertReady, False)], True),
            (vec![(AuthReady, True), (CACertReady, Unknown)], True),
        ] {
            let list: Vec<Condition> = conditions.iter().copied().map(condition).collect();
            assert_eq!(ready(&list).status, expected, "{conditions:?}");
        }
    }
}
