//! The `ConfigMaps` with the root's certificate, which pods mount from their own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::Authority;
use super::error::BundleError;
use crate::kubernetes::FIELD_MANAGER;
use crate::pause;

/// Name of the `ConfigMap`.
pub const BUNDLE: &str = "postern-ca";
/// Its key, with the root in PEM.
pub const BUNDLE_KEY: &str = "ca.crt";
/// How often a `ConfigMap` that is right is looked at again.
pub const RESYNC: Duration = Duration::from_mins(10);

/// How long the API server may take for one `ConfigMap`.
const ANSWER: Duration = Duration::from_secs(10);
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Writes the `ConfigMap` of a namespace unless it is right already; says whether it did.
///
/// Only [`BUNDLE_KEY`] is ours: other keys are left alone.
pub async fn write_bundle(
    authority: &Authority,
    client: &Client,
    namespace: &str,
) -> Result<bool, BundleError> {
    match timeout(ANSWER, write(authority, client, namespace)).await {
        Ok(result) => result,
        Err(_) => Err(BundleError::TimedOut {
            namespace: namespace.to_owned(),
            name: BUNDLE,
        }),
    }
}

async fn write(
    authority: &Authority,
    client: &Client,
    namespace: &str,
) -> Result<bool, BundleError> {
    let failed = |action| {
        move |source| BundleError::Request {
            action,
            namespace: namespace.to_owned(),
            name: BUNDLE,
            source: Box::new(source),
        }
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let current = maps.get_opt(BUNDLE).await.map_err(failed("read"))?;
    let data = current.and_then(|map| map.data).unwrap_or_default();
    if data.get(BUNDLE_KEY).map(String::as_str) == Some(authority.root_pem()) {
        return Ok(false);
    }
    let patch = Patch::Apply(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": namespace,
            "name": BUNDLE,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
        },
        "data": {BUNDLE_KEY: authority.root_pem()},
    }));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = maps.patch(BUNDLE, &params, &patch).await;
    written.map_err(failed("write"))?;
    Ok(true)
}

/// Keeps the `ConfigMap` in the controller's own namespace and in those of `namespaces`; looks
/// at each again after `resync` ([`RESYNC`]), because somebody may have changed or deleted it.
///
/// A namespace that refuses is told about once and tried again with growing pauses; the
/// others go on. In a namespace that is not wanted any more the `ConfigMap` stays, since pods
/// may mount it. Returns when the sender of `namespaces` is gone.
pub async fn keep_bundles(
    authority: Arc<Authority>,
    client: Client,
    mut namespaces: watch::Receiver<BTreeSet<String>>,
    resync: Duration,
) {
    let mut agenda = Agenda::default();
    namespaces.mark_changed();
    loop {
        if namespaces.has_changed().unwrap_or(false) {
            let mut wanted = namespaces.borrow_and_update().clone();
            wanted.insert(authority.namespace().to_owned());
            agenda.want(&wanted);
        }
        let now = Instant::now();
        match agenda.next() {
            Some((namespace, due)) if due.is_none_or(|due| due <= now) => {
                let written = write_bundle(&authority, &client, &namespace).await;
                agenda.done(&namespace, &written, resync);
            }
            next => {
                // The own namespace is always on the agenda.
                let due = next.and_then(|(_, due)| due).unwrap_or(now + resync);
                tokio::select! {
                    () = sleep_until(due) => {}
                    changed = namespaces.changed() => match changed {
                        Ok(()) => namespaces.mark_changed(),
                        Err(_) => return,
                    },
                }
            }
        }
    }
}

/// Which namespace is looked at when.
#[derive(Default)]
struct Agenda(BTreeMap<String, Item>);

#[derive(Default)]
struct Item {
    /// `None`: it was never looked at, and goes first.
    due: Option<Instant>,
    /// `None` while there is no failure.
    waits: Option<ExponentialBackoff>,
}

impl Agenda {
    fn want(&mut self, wanted: &BTreeSet<String>) {
        self.0.retain(|namespace, _| wanted.contains(namespace));
        for namespace in wanted {
            self.0.entry(namespace.clone()).or_default();
        }
    }

    fn next(&self) -> Option<(String, Option<Instant>)> {
        let first = self.0.iter().min_by_key(|(_, item)| item.due);
        first.map(|(namespace, item)| (namespace.clone(), item.due))
    }

    fn done(&mut self, namespace: &str, written: &Result<bool, BundleError>, resync: Duration) {
        let Some(item) = self.0.get_mut(namespace) else {
            return;
        };
        let pause = match written {
            Ok(written) => {
                if *written {
                    info!("wrote the root certificate to ConfigMap {namespace}/{BUNDLE}");
                }
                item.waits = None;
                pause::spread(resync)
            }
            Err(error) => {
                if item.waits.is_none() {
                    warn!("{error}; trying again until it works or is not wanted any more");
                } else {
                    debug!("{error}");
                }
                let growing = || pause::growing(FIRST_PAUSE, LONGEST_PAUSE);
                let waits = item.waits.get_or_insert_with(growing);
                waits.next().unwrap_or(LONGEST_PAUSE)
            }
        };
        item.due = Some(Instant::now() + pause);
    }
}
