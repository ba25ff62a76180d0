//! The end of a node that has a successor: nobody notices.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::Node;
use crate::{limits, telemetry::Counters};

impl Node {
    /// Serves what still comes here, and returns when nothing does.
    ///
    /// After [`NodeError::Replaced`](super::NodeError::Replaced), connections of a workload
    /// are accepted until a while after the successor has taken the workload over, or until
    /// it had time enough to do so. Without a successor, new connections to fail-closed
    /// Connectors are refused at once, and those to fail-open ones go direct.
    /// Open ones may go on for `limit`, which is [`limits::HAND_OVER`] for who has a successor:
    /// those of HTTP end with the request that they are at, or soon when there is none, and
    /// those of workloads that the successor does not know end now.
    ///
    /// What is pinned stays as it is.
    pub async fn drain(mut self, limit: Duration) {
        if let Err(error) = self.await_decision().await {
            tracing::warn!("cannot tell whether a successor has taken over: {error}");
        }
        if self.replaced {
            self.accept_until_flipped().await;
        } else if let Err(error) = self.datapath.rest() {
            tracing::warn!("the kernel is left to find out that nobody serves: {error}");
        }
        self.datapath.release();
        for enrolled in self.enrolled.values() {
            enrolled.enrolment.wind_down();
        }
        // Their listeners close; connections know their workload themselves.
        self.enrolled.clear();
        let deadline = Instant::now() + limit;
        while Counters::read(&self.proxy.counters.open) > 0 && Instant::now() < deadline {
            sleep(limits::HAND_OVER_WATCH).await;
        }
    }

    async fn accept_until_flipped(&mut self) {
        let deadline = Instant::now() + limits::SUCCESSION;
        let mut flipped: HashMap<u64, Instant> = HashMap::new();
        while !self.enrolled.is_empty() && Instant::now() < deadline {
            let ids: Vec<u64> = self.enrolled().collect();
            for id in ids {
                match self.fate(id) {
                    Fate::Ours => {
                        flipped.remove(&id);
                    }
                    Fate::Flipped => {
                        let since = flipped.entry(id).or_insert_with(Instant::now).elapsed();
                        self.close_if(since >= limits::FLIP, id);
                    }
                    Fate::Gone => {
                        if let Some(enrolled) = self.enrolled.remove(&id) {
                            enrolled.end(&self.workers);
                        }
                    }
                }
            }
            sleep(limits::HAND_OVER_WATCH).await;
        }
    }

    fn close_if(&mut self, over: bool, id: u64) {
        if over && let Some(enrolled) = self.enrolled.remove(&id) {
            enrolled.enrolment.wind_down();
        }
    }

    fn fate(&self, cgroup_id: u64) -> Fate {
        let Some(enrolled) = self.enrolled.get(&cgroup_id) else {
            return Fate::Gone;
        };
        match self.datapath.workload(cgroup_id) {
            Ok(Some(entry)) if enrolled.is_target_of(entry) => Fate::Ours,
            Ok(Some(_)) => Fate::Flipped,
            Ok(None) => Fate::Gone,
            Err(error) => {
                tracing::warn!(
                    "cannot tell who serves {}: {error}",
                    enrolled.enrolment.name
                );
                Fate::Ours
            }
        }
    }
}

/// Where the kernel sends the connections of a workload.
enum Fate {
    Ours,
    Flipped,
    Gone,
}
