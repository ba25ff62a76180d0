//! The Connectors of the cluster, in the form in which nodes get them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use connectors::cluster::Resolution;
use connectors::{Connector, ConnectorId, FailurePolicy};

use super::fingerprint::{Fingerprint, Fingerprints, NoRandomness};
use super::ids::Ids;
use super::wire;
use crate::grants::{Directory, undecided};

/// One Connector as nodes get it.
#[derive(Debug)]
pub struct Entry {
    /// The Connector, with its credential if it is usable.
    pub connector: Connector,
    /// Whether requests can be authenticated.
    pub usable: bool,
    /// Counts the changes of the credential, from 1.
    pub generation: u64,
    /// Tells versions of the Secret apart; 0 without one.
    pub revision: u64,
    /// What it takes of a message to a node, bytes.
    pub(super) size: usize,
}

impl Entry {
    /// The same without what is large: not usable, so that its connections are refused.
    pub(super) fn stripped(&self) -> Self {
        let connector = Connector {
            credential: None,
            extra_roots: Arc::default(),
            ..self.connector.clone()
        };
        Self {
            connector,
            usable: false,
            size: 0,
            ..*self
        }
        .measured()
    }

    /// What stands in for it while it is not known whether a pod is granted it; `None` if it fails
    /// open, because such a pod is left alone then.
    pub(super) fn undecided(&self) -> Option<Self> {
        if self.connector.failure_policy == FailurePolicy::Open {
            return None;
        }
        let mut entry = self.stripped();
        entry.connector.id = undecided(self.connector.id);
        // It has no credential, so none that is replaced.
        (entry.generation, entry.revision) = (0, 0);
        Some(entry.measured())
    }

    fn measured(mut self) -> Self {
        self.size = wire::size(&self);
        self
    }
}

/// Two entries are equal when a node would be sent the same; the credential is compared by
/// its generation.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&self.connector, &other.connector);
        (self.usable, self.generation, self.revision)
            == (other.usable, other.generation, other.revision)
            && (one.id, &one.namespace, &one.name, &one.class)
                == (two.id, &two.namespace, &two.name, &two.class)
            && one.addresses().eq(two.addresses())
            && (one.protocol, one.client_authorization, one.failure_policy)
                == (two.protocol, two.client_authorization, two.failure_policy)
            && (one.on_untrusted_ca, &one.extra_roots) == (two.on_untrusted_ca, &two.extra_roots)
    }
}

/// Which version of a Secret a credential was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretVersion<'a> {
    /// `metadata.uid` of the Secret.
    pub uid: &'a str,
    /// `metadata.resourceVersion` of the Secret.
    pub resource_version: &'a str,
}

impl SecretVersion<'_> {
    /// The same for the same version on every replica, and never 0.
    fn revision(self) -> u64 {
        let mut context = Context::new(&SHA256);
        context.update(self.uid.as_bytes());
        context.update(&[0]);
        context.update(self.resource_version.as_bytes());
        let hash = context.finish();
        let first = hash.as_ref().first_chunk();
        first.map_or(1, |it| u64::from_be_bytes(*it)).max(1)
    }
}

/// The Connectors of the cluster.
pub struct Catalog {
    records: BTreeMap<String, BTreeMap<String, Record>>,
    ids: Ids,
    fingerprints: Fingerprints,
}

/// What is remembered of one object for as long as it exists.
struct Record {
    uid: String,
    id: ConnectorId,
    generation: u64,
    fingerprint: Option<Fingerprint>,
    entry: Option<Arc<Entry>>,
}

impl Catalog {
    /// Without any Connector.
    pub fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            records: BTreeMap::new(),
            ids: Ids::default(),
            fingerprints: Fingerprints::new()?,
        })
    }

    /// The id of an object, which it keeps until [`Self::remove`]. An object of another uid
    /// under the same name is another one.
    pub fn id(&mut self, namespace: &str, name: &str, uid: &str) -> ConnectorId {
        let known = self.records.get(namespace).and_then(|it| it.get(name));
        if let Some(record) = known
            && record.uid == uid
        {
            return record.id;
        }
        self.remove(namespace, name);
        let id = self.ids.take(uid);
        let record = Record {
            uid: uid.to_owned(),
            id,
            generation: 0,
            fingerprint: None,
            entry: None,
        };
        let names = self.records.entry(namespace.to_owned()).or_default();
        names.insert(name.to_owned(), record);
        id
    }

    /// Takes over what came of the object that was given this id; `version` is that of the
    /// Secret with the credential. Returns whether nodes have to be told.
    ///
    /// An object that is gone in the meantime is passed over.
    pub fn publish(
        &mut self,
        namespace: &str,
        name: &str,
        resolution: Resolution,
        version: Option<SecretVersion<'_>>,
    ) -> bool {
        let names = self.records.get_mut(namespace);
        let Some(record) = names.and_then(|it| it.get_mut(name)) else {
            return false;
        };
        let usable = resolution.is_usable();
        let Some(connector) = resolution.connector else {
            return record.entry.take().is_some();
        };
        if connector.id != record.id {
            return false;
        }
        let credential = connector.credential.as_ref();
        let fingerprint = credential.map(|it| self.fingerprints.of(it));
        if record.generation == 0 || fingerprint != record.fingerprint {
            record.generation += 1;
            record.fingerprint = fingerprint;
        }
        let entry = Entry {
            connector,
            usable,
            generation: record.generation,
            revision: version.map_or(0, SecretVersion::revision),
            size: 0,
        }
        .measured();
        let changed = record.entry.as_deref() != Some(&entry);
        if changed {
            record.entry = Some(Arc::new(entry));
        }
        changed
    }

    /// Forgets an object that was deleted. Returns whether nodes have to be told.
    pub fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let Some(names) = self.records.get_mut(namespace) else {
            return false;
        };
        let removed = names.remove(name);
        if names.is_empty() {
            self.records.remove(namespace);
        }
        let Some(record) = removed else {
            return false;
        };
        self.ids.retire(record.id);
        record.entry.is_some()
    }

    /// The Connectors of a namespace, as far as they have an address.
    pub fn entries(&self, namespace: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let names = self.records.get(namespace);
        names
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(|record| record.entry.as_ref())
    }
}

impl Directory for Catalog {
    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&str, ConnectorId)> {
        self.entries(namespace)
            .map(|entry| (entry.connector.name.as_str(), entry.connector.id))
    }
}
