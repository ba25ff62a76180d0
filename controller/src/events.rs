//! Events about pods, for those who look at them with `kubectl describe`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Client;
use proxy_common::distribution::{Untrusting, Workload};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::bucket::SharedBucket;
use crate::kubernetes::{PodEvent, write_event};

mod limits {
    use std::num::NonZeroU32;
    use std::time::Duration;

    /// How long an Event is not written again; API servers keep it as long.
    pub(super) const AGAIN: Duration = Duration::from_hours(1);
    /// Most Events that are remembered.
    pub(super) const REMEMBERED: usize = 4096;
    /// Events per second, and at once. Agents report again what there was no room for.
    pub(super) const RATE: (NonZeroU32, NonZeroU32) = (NonZeroU32::MIN, number(20));
    /// Answer of the API server.
    pub(super) const WRITE: Duration = Duration::from_secs(10);

    const fn number(value: u32) -> NonZeroU32 {
        match NonZeroU32::new(value) {
            Some(number) => number,
            None => NonZeroU32::MIN,
        }
    }
}

/// Writes Events, each once.
pub(crate) struct Events {
    client: Client,
    /// By the pod's uid and the host, when it was written.
    written: Mutex<HashMap<(String, String), Instant>>,
    bucket: SharedBucket,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        let (rate, burst) = limits::RATE;
        Self {
            client,
            written: Mutex::default(),
            bucket: SharedBucket::new(rate, burst),
        }
    }

    /// A pod does not trust the authority of its node.
    pub(crate) async fn untrusting(&self, pod: &Workload, report: &Untrusting) {
        let key = (pod.pod_uid.clone(), report.host.clone());
        if self.is_written(&key) || !self.bucket.take() {
            return;
        }
        let event = PodEvent {
            pod,
            // The same wherever and whenever it is written: what is there already stays.
            about: &report.host,
            reason: "UntrustedCA",
            action: "Intercept",
            note: note(report),
        };
        let name = format!("{}/{}", pod.namespace, pod.name);
        match timeout(limits::WRITE, write_event(&self.client, event)).await {
            Ok(Ok(())) => {
                debug!(pod = name, host = report.host, "wrote an Event");
                self.remember(key);
            }
            Ok(Err(error)) => warn!("cannot write an Event about pod {name}: {error}"),
            Err(_) => warn!("cannot write an Event about pod {name}: no answer"),
        }
    }

    fn is_written(&self, key: &(String, String)) -> bool {
        let at = self.lock().get(key).copied();
        at.is_some_and(|at| at.elapsed() < limits::AGAIN)
    }

    fn remember(&self, key: (String, String)) {
        let mut written = self.lock();
        written.retain(|_, at| at.elapsed() < limits::AGAIN);
        // Without room the API server says that it is there.
        if written.len() < limits::REMEMBERED {
            written.insert(key, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Instant>> {
        // Nothing panics while it holds the lock.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(report: &Untrusting) -> String {
    format!(
        "A client in this pod does not trust Postern's certificate for {}: it has ended {} \
         connections. Have it trust ca.crt of the ConfigMap postern-ca in the pod's namespace, or \
         set spec.interception.onUntrustedCA: Passthrough on the Connector, for connections \
         without a credential.",
        report.host, report.connections
    )
}
