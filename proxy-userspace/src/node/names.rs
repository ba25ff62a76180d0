//! The addresses behind Connectors' host names, asked for again when an answer grows old.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    limits,
    state::Connector,
    upstream::{ResolveError, Resolver},
};

/// Resolves in the background: nothing else may wait for it, and no host for another.
pub(super) struct Names {
    resolver: Arc<Resolver>,
    /// When to look whether the files of the resolver have changed.
    watch: Interval,
    /// Of these files, as of when the hosts were asked for.
    epoch: u64,
    /// Other hosts may be wanted.
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
    /// When to ask; `None`: at once.
    next: Option<Instant>,
    /// Of the files when it was put into the queue.
    epoch: u64,
    addresses: BTreeSet<IpAddr>,
}

struct Answer {
    /// When to ask again.
    until: Result<Instant, ResolveError>,
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
    pub(super) missing: Vec<Missing>,
}

/// A host that does not resolve.
#[derive(Debug)]
pub(super) struct Missing {
    host: String,
    error: String,
    /// There are addresses from before.
    known: bool,
}

impl Names {
    pub(super) fn new(resolver: &Arc<Resolver>) -> Self {
        let mut watch = interval_at(Instant::now(), limits::NAME_FILES_WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            resolver: Arc::clone(resolver),
            watch,
            epoch: resolver.epoch(),
            soon: false,
            hosts: HashMap::new(),
            queue: VecDeque::new(),
            running: JoinSet::new(),
            asked: HashMap::new(),
        }
    }

    /// Has it [started](Self::start) anew: other hosts may be wanted.
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
        loop {
            self.ask();
            if self.soon {
                return Event::Due;
            }
            let next = self.next_due();
            tokio::select! {
                _ = self.watch.tick() => self.look_at_files(),
                () = at(next) => self.queue_due(),
                Some(done) = self.running.join_next_with_id() => {
                    let mut news = News::default();
                    self.settle(done, &mut news);
                    while let Some(done) = self.running.try_join_next_with_id() {
                        self.settle(done, &mut news);
                    }
                    return Event::Done(news);
                }
            }
        }
    }

    /// Resolves `hosts`, so that the resolver knows them, and forgets all others. Those that
    /// are known, or failed of late, are asked for when it is time.
    pub(super) fn start(&mut self, hosts: BTreeSet<String>) {
        self.soon = false;
        self.hosts.retain(|name, _| hosts.contains(name));
        self.queue.retain(|name| hosts.contains(name));
        // An address needs no resolver.
        for name in hosts.into_iter().filter(|name| !is_address(name)) {
            self.hosts.entry(name).or_default();
        }
        self.queue_due();
        self.ask();
    }

    /// Other files may have other answers, also for what failed.
    fn look_at_files(&mut self) {
        let epoch = self.resolver.epoch();
        if std::mem::replace(&mut self.epoch, epoch) == epoch {
            return;
        }
        for host in self.hosts.values_mut() {
            host.next = None;
        }
        self.queue_due();
    }

    /// When the next host is to be asked for that is not in the queue.
    fn next_due(&self) -> Option<Instant> {
        let waiting = self.hosts.values().filter(|host| !host.under_way);
        waiting.filter_map(|host| host.next).min()
    }

    fn queue_due(&mut self) {
        let now = Instant::now();
        for (name, host) in &mut self.hosts {
            if host.under_way || host.next.is_some_and(|time| time > now) {
                continue;
            }
            host.under_way = true;
            host.epoch = self.epoch;
            if host.known || host.failures > 0 {
                self.queue.push_back(name.clone());
            } else {
                self.queue.push_front(name.clone());
            }
        }
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
        let until = match done {
            Ok((_, answer)) => {
                news.changed |= answer.addresses != host.addresses;
                host.addresses = answer.addresses;
                answer.until.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match until {
            Ok(until) => {
                host.known = true;
                host.failures = 0;
                host.next = Some(until);
            }
            Err(error) => {
                if host.failures == 0 {
                    news.missing.push(Missing {
                        host: name,
                        error,
                        known: host.known,
                    });
                }
                host.failures = host.failures.saturating_add(1);
                host.next = Some(Instant::now() + back_off(host.failures));
            }
        }
        // The files changed meanwhile.
        if host.epoch != self.epoch {
            host.next = Some(Instant::now());
        }
    }
}

async fn ask(resolver: Arc<Resolver>, name: String) -> Answer {
    Answer {
        until: resolver.refresh(&name).await,
        addresses: resolver.known(&name).into_iter().collect(),
    }
}

/// How long a host is left alone that failed so many times in a row.
fn back_off(failures: u32) -> Duration {
    let factor = 1 << failures.saturating_sub(1).min(8);
    (limits::RESOLVE_AGAIN * factor).min(limits::RESOLVE_BACK_OFF)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

/// Reports hosts that do not resolve.
pub(super) fn complain<'a>(
    missing: &[Missing],
    connectors: impl Iterator<Item = &'a Arc<Connector>>,
) {
    if missing.is_empty() {
        return;
    }
    let mut users: BTreeMap<&str, BTreeSet<String>> = missing
        .iter()
        .map(|missing| (missing.host.as_str(), BTreeSet::new()))
        .collect();
    for connector in connectors {
        for address in connector.addresses() {
            if let Some(users) = users.get_mut(address.host.as_str()) {
                users.insert(connector.to_string());
            }
        }
    }
    for Missing { host, error, known } in missing {
        let users = users.remove(host.as_str()).unwrap_or_default();
        let users = Vec::from_iter(users).join(", ");
        if *known {
            tracing::warn!(
                "cannot resolve {host} of connector {users} any more: {error}; its last addresses \
                 are used for {} minutes, and stay redirected until it resolves again",
                limits::ADDRESS_LIFE.as_secs() / 60
            );
        } else {
            tracing::warn!(
                "cannot resolve {host} of connector {users}: {error}; connections to it get no \
                 credential until it resolves"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "localhost";
    const BAD: &str = "postern.invalid";

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// Nothing of the machine's own configuration: both hosts are known without a server.
    fn names_of_their_own() -> Names {
        let nowhere = "/nonexistent";
        Names::new(&Arc::new(Resolver::with_files(nowhere, nowhere, 9)))
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
        let mut names = names_of_their_own();
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
        let mut names = names_of_their_own();
        names.start(hosts(&[BAD, "192.0.2.1"]));
        let news = done(&mut names).await;
        let [missing] = news.missing.as_slice() else {
            panic!("{:?}", news.missing);
        };
        assert_eq!((missing.host.as_str(), missing.known), (BAD, false));
        assert!(!names.are_all_known());
        names.start(hosts(&[BAD]));
        assert!(!names.is_busy(), "it is asked for again at once");

        if let Some(host) = names.hosts.get_mut(BAD) {
            host.next = None;
        }
        names.start(hosts(&[BAD]));
        assert!(done(&mut names).await.missing.is_empty());
        names.start(BTreeSet::new());
        assert!(names.are_all_known() && !names.is_busy());
    }

    #[tokio::test]
    async fn only_some_hosts_are_asked_for_at_once() {
        let mut names = names_of_their_own();
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
