//! Tells the controller which pods do not trust this node's authority.

use std::{collections::HashMap, sync::Arc};

use proxy_common::distribution;
use tokio::{task::JoinHandle, time::Instant};

use super::{controller::Controller, snapshot::Snapshot, status::Untrusting};
use crate::limits;

/// Reports, one after the other.
pub(super) struct Distrust {
    controller: Arc<Controller>,
    told: Told,
    running: Option<JoinHandle<()>>,
}

/// When it was last told about a pod and a host.
#[derive(Default)]
struct Told(HashMap<(String, String), Instant>);

impl Distrust {
    pub(super) fn new(controller: Arc<Controller>) -> Self {
        Self {
            controller,
            told: Told::default(),
            running: None,
        }
    }

    /// Reports those of the list that were not reported a moment ago.
    pub(super) fn report(&mut self, list: Vec<Untrusting>, snapshot: &Snapshot) {
        if self.running.as_ref().is_some_and(|it| !it.is_finished()) {
            return;
        }
        let due = self.told.due(list, Instant::now());
        let reports: Vec<_> = due
            .into_iter()
            .filter_map(|it| {
                Some(distribution::Untrusting {
                    pod_uid: snapshot.uid(&it.workload)?.to_string(),
                    host: it.host,
                    connections: it.connections,
                })
            })
            .collect();
        if reports.is_empty() {
            return;
        }
        let controller = Arc::clone(&self.controller);
        self.running = Some(tokio::spawn(async move {
            if let Err(error) = controller.report_untrusting(reports).await {
                // It is in the log and in the status here as well.
                tracing::debug!("the controller is not told who does not trust: {error}");
            }
        }));
    }
}

impl Told {
    /// What there is to tell now. It is told again after a while, in case that it was not heard.
    fn due(&mut self, list: Vec<Untrusting>, now: Instant) -> Vec<Untrusting> {
        self.0
            .retain(|_, told| now.duration_since(*told) < limits::COMPLAIN_AGAIN);
        let mut due = list;
        due.retain(|it| {
            let key = (it.workload.clone(), it.host.clone());
            !self.0.contains_key(&key) && self.0.insert(key, now).is_none()
        });
        due
    }
}

impl Drop for Distrust {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_at_once_and_again_after_a_while() {
        let of = |host: &str| Untrusting {
            workload: "team/pod".to_owned(),
            host: host.to_owned(),
            connections: 3,
        };
        let start = Instant::now();
        let mut told = Told::default();
        assert_eq!(told.due(vec![of("a")], start), [of("a")]);
        assert_eq!(told.due(vec![of("a"), of("b")], start), [of("b")]);
        let later = start + limits::COMPLAIN_AGAIN;
        assert_eq!(told.due(vec![of("a")], later), [of("a")]);
    }
}
