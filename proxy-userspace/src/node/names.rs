//! The addresses behind Connectors' host names, asked for again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    sync::Arc,
};

use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{limits, state::Connector, upstream::Resolver};

/// Resolves in the background: nothing else may wait for it.
pub(super) struct Names {
    again: Interval,
    /// Asked for before its time.
    soon: bool,
    running: Option<JoinHandle<Failed>>,
    /// Hosts that did not resolve the last time, and were complained about.
    missing: HashSet<String>,
}

/// What happens with names.
pub(super) enum Event {
    /// It is time to [`start`](Names::start).
    Due,
    /// What was started is done.
    Done(Failed),
}

/// Hosts that did not resolve.
pub(super) type Failed = Vec<(String, io::Error)>;

impl Names {
    pub(super) fn new() -> Self {
        let mut again = interval_at(
            Instant::now() + limits::RESOLVE_AGAIN,
            limits::RESOLVE_AGAIN,
        );
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            again,
            soon: false,
            running: None,
            missing: HashSet::new(),
        }
    }

    /// Has everything resolved as soon as what is under way is done.
    pub(super) fn soon(&mut self) {
        self.soon = true;
    }

    /// Whether something is under way or asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.soon || self.running.is_some()
    }

    /// Waits for the next thing to happen. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        if let Some(task) = &mut self.running {
            // A task that panicked found nothing.
            let failed = task.await.unwrap_or_default();
            self.running = None;
            return Event::Done(failed);
        }
        if !self.soon {
            self.again.tick().await;
        }
        Event::Due
    }

    /// Resolves `hosts`, so that the resolver knows them.
    pub(super) fn start(&mut self, resolver: Arc<Resolver>, hosts: BTreeSet<String>) {
        self.soon = false;
        self.again.reset();
        self.running = Some(tokio::spawn(resolve(resolver, hosts)));
    }

    /// Reports hosts that do not resolve, once until they do.
    pub(super) fn complain<'a>(
        &mut self,
        failed: Failed,
        connectors: impl Iterator<Item = &'a Arc<Connector>>,
    ) {
        let before = std::mem::take(&mut self.missing);
        let mut news: BTreeMap<String, (io::Error, BTreeSet<String>)> = BTreeMap::new();
        for (host, error) in failed {
            self.missing.insert(host.clone());
            if !before.contains(&host) {
                news.insert(host, (error, BTreeSet::new()));
            }
        }
        if news.is_empty() {
            return;
        }
        for connector in connectors {
            for address in connector.addresses() {
                if let Some((_, users)) = news.get_mut(&address.host) {
                    users.insert(connector.to_string());
                }
            }
        }
        for (host, (error, users)) in news {
            let users = Vec::from_iter(users).join(", ");
            tracing::warn!(
                "cannot resolve {host} of connector {users}: {error}; connections to it get no \
                 credential until it resolves"
            );
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}

async fn resolve(resolver: Arc<Resolver>, hosts: BTreeSet<String>) -> Failed {
    let permits = Arc::new(Semaphore::new(limits::RESOLVE_AT_ONCE));
    let mut tasks = JoinSet::new();
    for host in hosts {
        let (resolver, permits) = (Arc::clone(&resolver), Arc::clone(&permits));
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            let error = resolver.resolve(&host).await.err()?;
            Some((host, error))
        });
    }
    let mut failed = Failed::new();
    while let Some(done) = tasks.join_next().await {
        failed.extend(done.ok().flatten());
    }
    failed
}
