//! What the kernel's maps have no place for: told once, until it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proxy_common::maps::{MAX_CREDENTIALS, MAX_DESTINATIONS, POLICY_ANY};

use super::Granted;
use crate::{
    state::{Connector, ConnectorId},
    workload::PolicyId,
};

/// Connectors that a message names before it ends in "and others".
const NAMED: usize = 5;

/// What was complained about.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Ports of addresses and hosts, by policy, for which there is no entry.
    left_out: BTreeMap<PolicyId, usize>,
    /// Connectors without a place among the credentials.
    pub(super) without_place: BTreeSet<ConnectorId>,
}

impl Shortage {
    pub(super) fn of_destinations<'a>(
        &mut self,
        left_out: BTreeMap<PolicyId, usize>,
        policies: impl Iterator<Item = (PolicyId, &'a Vec<Granted>)>,
    ) {
        for (policy, granted) in policies {
            if let Some(count) = left_out.get(&policy)
                && !self.left_out.contains_key(&policy)
            {
                let connectors = granted.iter().map(|granted| &granted.connector);
                tracing::error!(
                    "{count} destinations (an address and port each) of the Connectors of policy {} \
                     have no place among the {MAX_DESTINATIONS} of this node, and connections to \
                     them get no credential; grant less to the pods of the node, of {}",
                    policy.0,
                    names(connectors)
                );
            }
        }
        let any = PolicyId(POLICY_ANY);
        if let Some(count) = left_out.get(&any)
            && !self.left_out.contains_key(&any)
        {
            tracing::warn!(
                "{count} destinations (an address and port each) of Connectors have no place among \
                 the {MAX_DESTINATIONS} of this node for pods that are not classified yet: until they are, their \
                 connections there are not refused but go out without a credential"
            );
        }
        self.left_out = left_out;
    }

    pub(super) fn of_credentials<'a>(
        &mut self,
        without_place: BTreeSet<ConnectorId>,
        connectors: impl Iterator<Item = &'a Arc<Connector>>,
    ) {
        let more = !without_place.is_subset(&self.without_place);
        self.without_place = without_place;
        if more {
            let without = connectors.filter(|it| self.without_place.contains(&it.id));
            tracing::warn!(
                "{} Connectors have no place among the {MAX_CREDENTIALS} of this node, and only \
                 the proxy can refuse connections to them: {}",
                self.without_place.len(),
                names(without)
            );
        }
    }
}

fn names<'a>(connectors: impl Iterator<Item = &'a Arc<Connector>>) -> String {
    let mut connectors = connectors.map(ToString::to_string);
    let mut names: Vec<_> = connectors.by_ref().take(NAMED).collect();
    if connectors.next().is_some() {
        names.push("and others".into());
    }
    names.join(", ")
}
