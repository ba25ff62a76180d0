//! From objects to messages.

mod budget;
mod catalog;
mod messages;
mod sequence;

use std::collections::BTreeMap;

use connectors::SecretData;
use connectors::cluster::Objects;
use proxy_common::distribution as wire;
use serde_json::{Value, json};

use super::{Catalog, SecretVersion};
use crate::grants::{Pod, Review, Reviews};
use crate::reconcile::reconcile;
use crate::testing::{basic, manifest, sound};

/// Reconciles and publishes a Connector of class `basic`; whether nodes have to be told.
fn publish(
    catalog: &mut Catalog,
    name: &str,
    spec: &Value,
    secret: Option<(&SecretData, &str)>,
) -> bool {
    publish_as(catalog, "uid", name, spec, secret)
}

fn publish_as(
    catalog: &mut Catalog,
    uid: &str,
    name: &str,
    spec: &Value,
    secret: Option<(&SecretData, &str)>,
) -> bool {
    let id = catalog.id("team", name, &format!("{uid} of {name}"));
    let class = basic();
    let objects = Objects {
        class: Some(&class),
        secret: secret.map(|(secret, _)| secret),
        ca_secret: None,
    };
    let outcome = reconcile(id, &manifest(name, spec), objects);
    let version = secret.map(|(_, resource_version)| SecretVersion {
        uid: "uid of the secret",
        resource_version,
    });
    catalog.publish("team", name, outcome.resolution, version)
}

/// [`sound`] with another address.
fn at(address: &str) -> Value {
    let mut spec = sound();
    spec["address"] = json!(address);
    spec
}

fn catalog() -> Catalog {
    Catalog::new().expect("randomness")
}

fn pod(uid: &str, namespace: &str, service_account: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: format!("pod-{uid}"),
        service_account: service_account.to_owned(),
        ips: vec!["192.0.2.1".to_owned()],
        host_network: false,
    }
}

fn review(service_account: &str, connector: Option<&str>) -> Review {
    Review {
        namespace: "team".to_owned(),
        service_account: service_account.to_owned(),
        connector: connector.map(str::to_owned),
    }
}

fn allowed(accounts: &[&str]) -> Reviews {
    let mut reviews = Reviews::default();
    for account in accounts {
        reviews.answer(review(account, None), true);
    }
    reviews
}

/// What an agent has after the messages it got.
#[derive(Default, PartialEq)]
struct Agent {
    connectors: BTreeMap<u32, wire::Connector>,
    policies: BTreeMap<u32, wire::Policy>,
    workloads: BTreeMap<String, wire::Workload>,
}

impl Agent {
    fn apply(&mut self, update: wire::NodeUpdate) {
        if update.full {
            *self = Self::default();
        }
        for id in &update.removed_connectors {
            assert!(self.connectors.remove(id).is_some(), "{id} was not there");
        }
        for id in &update.removed_policies {
            assert!(self.policies.remove(id).is_some(), "{id} was not there");
        }
        for uid in &update.removed_workloads {
            assert!(self.workloads.remove(uid).is_some(), "{uid} was not there");
        }
        for connector in update.connectors {
            self.connectors.insert(connector.id, connector);
        }
        for policy in update.policies {
            self.policies.insert(policy.id, policy);
        }
        for workload in update.workloads {
            self.workloads.insert(workload.pod_uid.clone(), workload);
        }
    }

    /// Whatever is named is there, and whatever is there is named.
    fn assert_is_consistent(&self) {
        for workload in self.workloads.values().filter(|it| it.policy != 0) {
            assert!(self.policies.contains_key(&workload.policy));
        }
        for (id, policy) in &self.policies {
            assert!(self.workloads.values().any(|it| it.policy == *id));
            assert!(!policy.connectors.is_empty());
            for connector in &policy.connectors {
                assert!(self.connectors.contains_key(connector));
            }
        }
        for id in self.connectors.keys() {
            assert!(*id != 0);
            assert!(self.policies.values().any(|it| it.connectors.contains(id)));
        }
    }
}
