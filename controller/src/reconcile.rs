//! What a Connector's conditions should be: a function of the objects, and of nothing else.

use std::time::{Duration, SystemTime};

use connectors::cluster::{self, Objects, Part, References, Resolution};
use connectors::condition::{self, Condition, ConditionType, ready, reason};
use connectors::{ConnectorId, StateError};
use proxy_common::api::{self, ConnectorStatus, GROUP};

use crate::model::CONNECTORS_OF_A_NAMESPACE;
use crate::status::says;

/// Longest message of a condition, in characters; a longer one is cut.
pub const MAX_MESSAGE: usize = 1024;

/// How far the clocks of replicas may be apart: all of them write statuses.
const CLOCKS_APART: Duration = Duration::from_mins(5);

/// What is known about a Connector.
#[derive(Debug)]
pub struct Outcome {
    /// Its conditions, `Ready` last.
    pub conditions: Vec<Condition>,
    /// What nodes are given.
    pub resolution: Resolution,
}

impl Outcome {
    /// It cannot be read any more: `fault` says why, and nodes refuse what they know of it.
    pub fn refuse(&mut self, fault: &str) {
        self.resolution.origin = None;
        if let Some(connector) = &mut self.resolution.connector {
            connector.credential = None;
        }
        let message = format!(
            "this version of Postern cannot read the Connector, and refuses its connections: \
             {fault}"
        );
        self.replace(reason::INVALID_SPEC, cut(message));
    }

    /// Takes the time into account: its certificate may not be valid at this one.
    ///
    /// What the object says already holds if it will be so soon. A replica whose clock is ahead has
    /// said it, and would say it again, if this one said otherwise.
    ///
    /// Nodes are given the certificate all the same. They decide by their own clocks, which are at
    /// hand when the moment comes.
    pub fn judge_time(&mut self, now: SystemTime, current: Option<&ConnectorStatus>) {
        let connector = self.resolution.connector.as_ref();
        let Some(connector) = connector.filter(|it| it.certificate().is_some()) else {
            return;
        };
        let mut conditions = self.conditions.iter_mut();
        let secret = conditions.find(|it| it.type_ == ConditionType::SecretReady);
        let Some(secret) = secret else { return };
        let at = |time| condition::untimely(connector, time).unwrap_or_else(|| secret.clone());
        let soon = at(now + CLOCKS_APART);
        let judged = match current {
            Some(status) if says(status, &soon) => soon,
            _ => at(now),
        };
        if judged == *secret {
            return;
        }
        *secret = judged;
        self.conditions
            .pop_if(|it| it.type_ == ConditionType::Ready);
        self.conditions.push(ready(&self.conditions));
    }

    /// Whether [`Self::judge_time`] may come to another end later.
    pub fn depends_on_time(&self) -> bool {
        let connector = self.resolution.connector.as_ref();
        connector.is_some_and(|it| it.certificate().is_some())
    }

    /// Its namespace has too many: nodes are not told of it.
    pub fn leave_out(&mut self) {
        self.resolution.origin = None;
        self.resolution.connector = None;
        let message = format!(
            "the namespace has more than {CONNECTORS_OF_A_NAMESPACE} Connectors, and this is \
             one of the newest: it is not in force. Remove others, or use another namespace"
        );
        self.replace(reason::TOO_MANY_CONNECTORS, message);
    }

    fn replace(&mut self, reason: &'static str, message: String) {
        self.conditions = vec![Condition::fails(ConditionType::Ready, reason, message)];
    }
}

/// Applies every rule to a Connector and the objects that it names.
pub fn reconcile(id: ConnectorId, manifest: &api::Connector, objects: Objects<'_>) -> Outcome {
    let resolution = cluster::resolve(id, manifest, objects);
    Outcome {
        conditions: conditions(manifest, &resolution),
        resolution,
    }
}

fn conditions(manifest: &api::Connector, resolution: &Resolution) -> Vec<Condition> {
    let names = References::of(manifest);
    let class = class_ready(&resolution.class, names.class);
    let secret = secret_ready(&resolution.secret, names.secret, &class);
    let ca_cert = ca_cert_ready(&resolution.ca_secret, names.ca_secret);
    let mut conditions = vec![class, secret, ca_cert];
    conditions.push(if resolution.faults.is_empty() {
        ready(&conditions)
    } else {
        // No other condition speaks of these fields.
        let faults = sentences(&resolution.faults);
        Condition::fails(ConditionType::Ready, reason::INVALID_SPEC, faults)
    });
    conditions
}

fn class_ready(class: &Part, name: Option<&str>) -> Condition {
    const TYPE: ConditionType = ConditionType::ConnectorClassReady;
    match class {
        Part::Sound | Part::NotNeeded => Condition::holds(TYPE, ""),
        Part::NotFound | Part::NotJudged => {
            let resource = format!("connectorclasses.{GROUP}");
            let message = not_found(&resource, name);
            Condition::fails(TYPE, reason::CONNECTOR_CLASS_NOT_FOUND, message)
        }
        Part::Unfit(faults) => {
            let reason = match name {
                Some(_) => reason::INVALID_CONNECTOR_CLASS,
                None => reason::CONNECTOR_CLASS_NOT_FOUND,
            };
            Condition::fails(TYPE, reason, sentences(faults))
        }
    }
}

fn secret_ready(secret: &Part, name: Option<&str>, class: &Condition) -> Condition {
    const TYPE: ConditionType = ConditionType::SecretReady;
    match secret {
        Part::Sound => Condition::holds(TYPE, ""),
        Part::NotNeeded => Condition::holds(TYPE, reason::SECRET_OPTIONAL),
        Part::NotFound => {
            Condition::fails(TYPE, reason::SECRET_NOT_FOUND, not_found("secrets", name))
        }
        Part::Unfit(faults) => Condition::fails(TYPE, reason::INVALID_SECRET, sentences(faults)),
        Part::NotJudged => {
            let (reason, what) = match class.reason {
                "" => (reason::INVALID_SPEC, "spec.address"),
                reason => (reason, "the class"),
            };
            let message = format!("not checked, because {what} is not usable");
            Condition::unknown(TYPE, reason, message)
        }
    }
}

fn ca_cert_ready(secret: &Part, name: Option<&str>) -> Condition {
    const TYPE: ConditionType = ConditionType::CACertReady;
    match secret {
        Part::Sound => Condition::holds(TYPE, reason::VALID),
        Part::NotNeeded | Part::NotJudged => Condition::holds(TYPE, reason::NO_CA_CERT),
        Part::NotFound => {
            Condition::fails(TYPE, reason::SECRET_NOT_FOUND, not_found("secrets", name))
        }
        Part::Unfit(faults) => Condition::fails(TYPE, reason::INVALID_PEM, sentences(faults)),
    }
}

/// The API server's own words.
fn not_found(resource: &str, name: Option<&str>) -> String {
    format!("{resource} \"{}\" not found", name.unwrap_or_default())
}

/// Faults in one line; the kind of the object is left out where it is the Connector itself.
fn sentences(faults: &[StateError]) -> String {
    let sentences: Vec<String> = faults
        .iter()
        .map(|fault| match &fault.place.object {
            Some(object) if object.starts_with("Connector ") => {
                format!("{}: {}", fault.field, fault.problem)
            }
            _ => fault.to_string(),
        })
        .collect();
    cut(sentences.join("; "))
}

fn cut(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE - 1) {
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
