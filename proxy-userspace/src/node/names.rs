//! The addresses behind Connectors' host names, asked for again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{limits, state::Connector, upstream::Resolver};

/// Resolves in the background: nothing else may wait for it, and no host for another.
pub(super) struct Names {
    resolver: Arc<Resolver>,
    again: Interval,
    /// Asked for before its time.
    soon: bool,
    hosts: HashMap<String, Host>,
    /// Hosts that are to be asked for, new ones first.
    queue: VecDeque<String>,
    running: JoinSet<Answer>,
    asked: HashMap<Id, String>,
}

#[derive(Default)]
struct Host {
    /// In the queue, or being asked for.
    under_way: bool,
    /// Was resolved at least once.
    known: bool,
    /// Attempts in a row that failed.
    failures: u32,
    not_before: Option<Instant>,
    addresses: BTreeSet<IpAddr>,
}

struct Answer {
    error: Option<io::Error>,
    addresses: BTreeSet<IpAddr>,
}

/// What happens with names.
pub(super) enum Event {
    /// It is time to [`start`](Names::start).
    Due,
    /// Some hosts were asked for.
    Done(News),
}

/// What some answers brought.
#[derive(Default)]
pub(super) struct News {
    /// A host has other addresses than before.
    pub(super) changed: bool,
    /// Hosts that do not resolve, each only the first time.
    pub(super) missing: Vec<(String, io::Error)>,
}

impl Names {
    pub(super) fn new(resolver: &Arc<Resolver>) -> Self {
        let mut again = interval_at(
            Instant::now() + limits::RESOLVE_AGAIN,
            limits::RESOLVE_AGAIN,
        );
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            resolver: Arc::clone(resolver),
            again,
            soon: false,
            hosts: HashMap::new(),
            queue: VecDeque::new(),
            running: JoinSet::new(),
            asked: HashMap::new(),
        }
    }

    /// Has everything resolved now, but for what failed of late.
    pub(super) fn soon(&mut self) {
        self.soon = true;
    }

    /// Whether something is under way or asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.soon || !self.queue.is_empty() || !self.running.is_empty()
    }

    /// Whether all hosts that were [started](Self::start) with were resolved at some time.
    pub(super) fn are_all_known(&self) -> bool {
        self.hosts.values().all(|host| host.known)
    }

    /// Waits for the next thing to happen. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        self.ask();
        if self.soon {
            return Event::Due;
        }
        tokio::select! {
            _ = self.again.tick() => Event::Due,
            Some(done) = self.running.join_next_with_id() => {
                let mut news = News::default();
                self.settle(done, &mut news);
                while let Some(done) = self.running.try_join_next_with_id() {
                    self.settle(done, &mut news);
                }
                Event::Done(news)
            }
        }
    }

    /// Resolves `hosts`, so that the resolver knows them, and forgets all others.
    pub(super) fn start(&mut self, hosts: BTreeSet<String>) {
        self.soon = false;
        self.again.reset();
        self.hosts.retain(|name, _| hosts.contains(name));
        self.queue.retain(|name| hosts.contains(name));
        let now = Instant::now();
        // An address needs no resolver.
        for name in hosts.into_iter().filter(|name| !is_address(name)) {
            let host = self.hosts.entry(name.clone()).or_default();
            if host.under_way || host.not_before.is_some_and(|time| time > now) {
                continue;
            }
            host.under_way = true;
            if host.known || host.failures > 0 {
                self.queue.push_back(name);
            } else {
                self.queue.push_front(name);
            }
        }
        self.ask();
    }

    /// Starts as many lookups as there may be.
    fn ask(&mut self) {
        while self.running.len() < limits::RESOLVE_AT_ONCE
            && let Some(name) = self.queue.pop_front()
        {
            let task = ask(Arc::clone(&self.resolver), name.clone());
            let id = self.running.spawn(task).id();
            self.asked.insert(id, name);
        }
    }

    fn settle(&mut self, done: Result<(Id, Answer), JoinError>, news: &mut News) {
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(name) = self.asked.remove(&id) else {
            return;
        };
        // Nobody wants it any more.
        let Some(host) = self.hosts.get_mut(&name) else {
            return;
        };
        host.under_way = false;
        let error = match done {
            Ok((_, answer)) => {
                news.changed |= answer.addresses != host.addresses;
                host.addresses = answer.addresses;
                answer.error
            }
            Err(error) => Some(io::Error::other(error)),
        };
        let Some(error) = error else {
            host.known = true;
            host.failures = 0;
            host.not_before = None;
            return;
        };
        if host.failures == 0 {
            news.missing.push((name, error));
        }
        host.failures = host.failures.saturating_add(1);
        host.not_before = Some(Instant::now() + back_off(host.failures));
    }
}

async fn ask(resolver: Arc<Resolver>, name: String) -> Answer {
    let error = resolver.resolve(&name).await.err();
    Answer {
        error,
        addresses: resolver.known(&name).into_iter().collect(),
    }
}

/// How long a host is left alone that failed so many times in a row.
fn back_off(failures: u32) -> Duration {
    let factor = 1 << failures.saturating_sub(1).min(8);
    (limits::RESOLVE_AGAIN * factor).min(limits::RESOLVE_BACK_OFF)
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

/// Reports hosts that do not resolve.
pub(super) fn complain<'a>(
    missing: &[(String, io::Error)],
    connectors: impl Iterator<Item = &'a Arc<Connector>>,
) {
    if missing.is_empty() {
        return;
    }
    let mut users: BTreeMap<&str, BTreeSet<String>> = missing
        .iter()
        .map(|(host, _)| (host.as_str(), BTreeSet::new()))
        .collect();
    for connector in connectors {
        for address in connector.addresses() {
            if let Some(users) = users.get_mut(address.host.as_str()) {
                users.insert(connector.to_string());
            }
        }
    }
    for (host, error) in missing {
        let users = users.remove(host.as_str()).unwrap_or_default();
        let users = Vec::from_iter(users).join(", ");
        tracing::warn!(
            "cannot resolve {host} of connector {users}: {error}; connections to it get no \
             credential until it resolves"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const GOOD: &str = "localhost";
    const BAD: &str = "postern.invalid";

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    async fn done(names: &mut Names) -> News {
        loop {
            if let Event::Done(news) = names.next().await {
                return news;
            }
        }
    }

    #[tokio::test]
    async fn no_host_waits_for_another() {
        let mut names = Names::new(&Arc::default());
        // A name whose servers do not answer.
        let id = names.running.spawn(pending()).id();
        names.asked.insert(id, "hangs.example.com".into());
        names.start(hosts(&[GOOD]));
        assert!(done(&mut names).await.changed);
        assert!(names.are_all_known());
        assert!(names.is_busy());
        assert!(!names.resolver.known(GOOD).is_empty());

        // Nor does a new one.
        names.hosts.clear();
        names.soon();
        assert!(matches!(names.next().await, Event::Due));
        names.start(hosts(&[GOOD]));
        assert!(done(&mut names).await.changed);
        assert_eq!(names.running.len(), 1);
    }

    #[tokio::test]
    async fn a_host_that_fails_is_told_once_and_left_alone_for_a_while() {
        let mut names = Names::new(&Arc::default());
        names.start(hosts(&[BAD, "192.0.2.1"]));
        let news = done(&mut names).await;
        let [(host, _)] = news.missing.as_slice() else {
            panic!("{:?}", news.missing);
        };
        assert_eq!(host, BAD);
        assert!(!names.are_all_known());
        names.start(hosts(&[BAD]));
        assert!(!names.is_busy(), "it is asked for again at once");

        if let Some(host) = names.hosts.get_mut(BAD) {
            host.not_before = None;
        }
        names.start(hosts(&[BAD]));
        assert!(done(&mut names).await.missing.is_empty());
        names.start(BTreeSet::new());
        assert!(names.are_all_known() && !names.is_busy());
    }

    #[tokio::test]
    async fn only_some_hosts_are_asked_for_at_once() {
        let mut names = Names::new(&Arc::default());
        let many: Vec<_> = (0..100).map(|n| format!("{n}.invalid")).collect();
        names.start(many.into_iter().collect());
        assert_eq!(names.running.len(), limits::RESOLVE_AT_ONCE);
        // Those that are not wanted any more are not asked for.
        names.start(BTreeSet::new());
        assert!(names.queue.is_empty());
    }

    #[test]
    fn the_pause_grows_up_to_a_minute() {
        assert_eq!(back_off(1), limits::RESOLVE_AGAIN);
        assert_eq!(back_off(2), limits::RESOLVE_AGAIN * 2);
        assert_eq!(back_off(u32::MAX), limits::RESOLVE_BACK_OFF);
    }
}
