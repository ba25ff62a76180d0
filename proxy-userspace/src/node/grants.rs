//! What each policy grants, and what of it stays when that changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use proxy_common::maps::{self, CREDENTIAL_REFUSE, CREDENTIAL_USABLE};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    gate::{Policies, Prepared},
    state::{Connector, ConnectorId, Credential, FailurePolicy},
    tls::{Roots, TlsError},
    workload::PolicyId,
};

/// A granted Connector with the binding of its credential.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The Connector. An id stands for one Connector in all policies.
    pub connector: Arc<Connector>,
    /// Which credential it has.
    pub binding: Binding,
}

/// Which credential a Connector has, and whether it may be used; never the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Counts the replacements of the Connector.
    pub generation: u64,
    /// Stands for the identity and version of the Secret: another credential has another
    /// generation or another revision.
    pub revision: u64,
    /// Whether the credential may be used. Otherwise connections and requests are refused.
    pub usable: bool,
}

/// All grants in force.
#[derive(Debug, Default)]
pub(super) struct Grants {
    policies: BTreeMap<PolicyId, Vec<Granted>>,
    connectors: HashMap<ConnectorId, InForce>,
}

#[derive(Clone, Debug)]
struct InForce {
    prepared: Prepared,
    binding: Binding,
    /// Stands in for a Connector that cannot be put in force.
    refused: bool,
}

/// What follows from new grants.
pub(super) struct Renewal {
    pub(super) grants: Grants,
    /// Connectors that are gone, or are not what they were.
    pub(super) changed: BTreeSet<ConnectorId>,
    /// Connectors that cannot be put in force: what goes there is refused or, if they fail open,
    /// left alone.
    pub(super) refused: Vec<(Arc<Connector>, TlsError)>,
}

impl Binding {
    /// The binding of a credential that was read from a file, which has no version.
    pub const fn of_file() -> Self {
        Self {
            generation: 1,
            revision: 1,
            usable: true,
        }
    }

    fn is_same_credential(self, other: Self) -> bool {
        (self.generation, self.revision) == (other.generation, other.revision)
    }
}

impl From<Binding> for maps::Credential {
    fn from(binding: Binding) -> Self {
        Self {
            generation: binding.generation,
            revision: binding.revision,
            not_after_ns: 0,
            state: if binding.usable {
                CREDENTIAL_USABLE
            } else {
                CREDENTIAL_REFUSE
            },
            flags: 0,
        }
    }
}

impl Grants {
    /// Prepares new grants. Connectors that are what they were keep what is prepared.
    pub(super) fn renew(
        &self,
        mut policies: BTreeMap<PolicyId, Vec<Granted>>,
        roots: &Roots,
    ) -> Renewal {
        let mut connectors: HashMap<ConnectorId, InForce> = HashMap::new();
        let mut changed = BTreeSet::new();
        let mut refused: BTreeMap<ConnectorId, (Arc<Connector>, TlsError)> = BTreeMap::new();
        for granted in policies.values().flatten() {
            let id = granted.connector.id;
            if connectors.contains_key(&id) || refused.contains_key(&id) {
                continue;
            }
            let before = self.connectors.get(&id);
            let same = before.filter(|before| before.is(granted));
            let prepared = if let Some(before) = same {
                Ok(before.prepared.clone())
            } else {
                changed.insert(id);
                Prepared::new(&granted.connector, roots)
            };
            match prepared {
                Ok(prepared) => {
                    let in_force = InForce {
                        prepared: prepared.with_usable(granted.binding.usable),
                        binding: granted.binding,
                        refused: false,
                    };
                    connectors.insert(id, in_force);
                }
                Err(error) => {
                    connectors.extend(InForce::refused(granted).map(|it| (id, it)));
                    refused.insert(id, (Arc::clone(&granted.connector), error));
                }
            }
        }
        for granted in policies.values_mut() {
            granted.retain(|granted| connectors.contains_key(&granted.connector.id));
        }
        let gone = self.connectors.keys();
        changed.extend(gone.filter(|id| !connectors.contains_key(id)));
        Renewal {
            grants: Self {
                policies,
                connectors,
            },
            changed,
            refused: refused.into_values().collect(),
        }
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = (PolicyId, &Vec<Granted>)> {
        self.policies.iter().map(|(id, granted)| (*id, granted))
    }

    /// The routes of all policies.
    pub(super) fn routes(&self) -> Policies {
        Policies::new(self.policies().map(|(policy, granted)| {
            let prepared = granted.iter().filter_map(|granted| {
                let in_force = self.connectors.get(&granted.connector.id)?;
                Some(in_force.prepared.clone())
            });
            (policy, prepared.collect())
        }))
    }

    pub(super) fn credentials(&self) -> impl Iterator<Item = (&Connector, Binding)> {
        self.connectors.values().map(InForce::credential)
    }

    pub(super) fn credential(&self, id: ConnectorId) -> Option<(&Connector, Binding)> {
        self.connectors.get(&id).map(InForce::credential)
    }

    pub(super) fn contains(&self, id: ConnectorId) -> bool {
        self.connectors.contains_key(&id)
    }

    pub(super) fn connectors(&self) -> impl Iterator<Item = &Arc<Connector>> {
        let all = self.connectors.values();
        all.map(|in_force| in_force.prepared.connector())
    }
}

impl InForce {
    fn credential(&self) -> (&Connector, Binding) {
        (self.prepared.connector(), self.binding)
    }

    /// Refuses what a Connector would get, unless it fails open.
    fn refused(granted: &Granted) -> Option<Self> {
        if granted.connector.failure_policy == FailurePolicy::Open {
            return None;
        }
        let binding = Binding {
            usable: false,
            ..granted.binding
        };
        // What fails without any authority fails for all Connectors alike.
        let prepared = Prepared::refused(&granted.connector).ok()?;
        Some(Self {
            prepared,
            binding,
            refused: true,
        })
    }

    /// Whether `granted` is the same Connector with the same credential.
    fn is(&self, granted: &Granted) -> bool {
        let connector = self.prepared.connector();
        let same = Arc::ptr_eq(connector, &granted.connector)
            || self.binding.is_same_credential(granted.binding)
                && is_same(connector, &granted.connector);
        same && !self.refused
    }
}

/// Whether two are equal. The binding alone does not tell of the credential: a controller
/// that has started anew counts generations from the start.
fn is_same(a: &Connector, b: &Connector) -> bool {
    is_same_secret(a.credential.as_ref(), b.credential.as_ref())
        && a.namespace == b.namespace
        && a.name == b.name
        && a.class == b.class
        && a.address == b.address
        && a.extensions == b.extensions
        && a.protocol == b.protocol
        && a.client_authorization == b.client_authorization
        && a.failure_policy == b.failure_policy
        && a.on_untrusted_ca == b.on_untrusted_ca
        && a.extra_roots == b.extra_roots
}

fn is_same_secret(a: Option<&Credential>, b: Option<&Credential>) -> bool {
    use Credential::{Basic, Bearer, Certificate, Generated, IdentityToken};
    // Both come from the controller, so the time that this takes tells nobody anything.
    let same = |a: &SecretString, b: &SecretString| a.expose_secret() == b.expose_secret();
    match (a, b) {
        (None, None) => true,
        (
            Some(Basic { username, password }),
            Some(Basic {
                username: user,
                password: pass,
            }),
        ) => same(username, user) && same(password, pass),
        (Some(Bearer { token }), Some(Bearer { token: other }))
        | (Some(IdentityToken { token }), Some(IdentityToken { token: other })) => {
            same(token, other)
        }
        (Some(Generated(one)), Some(Generated(other))) => one == other,
        (
            Some(Certificate {
                certificate,
                generated,
            }),
            Some(Certificate {
                certificate: other,
                generated: also,
            }),
        ) => certificate == other && generated == also,
        _ => false,
    }
}
