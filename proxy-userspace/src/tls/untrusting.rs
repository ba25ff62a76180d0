//! Workloads that do not trust our certificate for a host.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{limits, workload::Enrolment};

/// Remembers which workload ended connections to which host because of the certificate.
#[derive(Debug, Default)]
pub struct Untrusting {
    records: Mutex<HashMap<Key, Record>>,
    /// Whether there ever was one: mostly there is none, and nobody has to lock.
    any: AtomicBool,
}

/// How a client shows that it does not trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// By an alert that says so (RFC 8446, section 6.2).
    Alert,
    /// It has seen the certificate, and went away without a word. Clients that look at the
    /// certificate after the handshake do so, Node.js among them; so does one that lost
    /// interest.
    Silence,
}

/// What follows from a connection that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Connections of the workload to the host that were ended so far, if it is time to say it.
    pub tell: Option<u64>,
    /// Whether the next ones are passed through, from now on.
    pub passes: bool,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Id of the workload's cgroup; none is used twice.
    workload: u64,
    host: String,
}

#[derive(Debug)]
struct Record {
    /// Name of the workload.
    name: String,
    total: u64,
    /// Since the last time that it was forgotten or taken back.
    alerts: u32,
    silent: u32,
    last: Instant,
    told: Option<Instant>,
    passes_until: Option<Instant>,
}

impl Untrusting {
    /// One more connection to `host` that the workload ended; whether there is a way to
    /// pass it through.
    pub fn refused(&self, workload: &Enrolment, host: &str, sign: Sign, may_pass: bool) -> Refused {
        let now = Instant::now();
        self.refused_at(Key::of(workload, host), &workload.name, sign, may_pass, now)
    }

    /// A request came from the workload: that others were silent had another reason.
    pub fn trusted(&self, workload: &Enrolment, host: &str) {
        if self.any.load(Ordering::Relaxed) {
            self.excuse(&Key::of(workload, host));
        }
    }

    /// Whether connections of the workload to `host` are to be passed through.
    pub fn passes(&self, workload: &Enrolment, host: &str) -> bool {
        self.any.load(Ordering::Relaxed) && self.passes_at(&Key::of(workload, host), Instant::now())
    }

    /// Workload, host and number of connections that were ended: those with most of them.
    pub fn list(&self) -> Vec<(String, String, u64)> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut list: Vec<_> = self
            .lock()
            .iter()
            .filter(|(_, record)| record.is_remembered(Instant::now()))
            .map(|(key, record)| (record.name.clone(), key.host.clone(), record.total))
            .collect();
        list.sort_by(|one, two| two.2.cmp(&one.2).then_with(|| one.cmp(two)));
        list.truncate(limits::UNTRUSTING_TOLD);
        list
    }

    fn refused_at(
        &self,
        key: Key,
        name: &str,
        sign: Sign,
        may_pass: bool,
        now: Instant,
    ) -> Refused {
        self.any.store(true, Ordering::Relaxed);
        let mut records = self.lock();
        if records.len() >= limits::UNTRUSTING && !records.contains_key(&key) {
            make_room(&mut records, now);
        }
        let record = records.entry(key).or_insert_with(|| Record::new(name, now));
        if !record.is_remembered(now) {
            *record = Record::new(name, now);
        }
        record.last = now;
        record.total += 1;
        match sign {
            Sign::Alert => record.alerts = record.alerts.saturating_add(1),
            Sign::Silence => record.silent = record.silent.saturating_add(1),
        }
        let seen = record.alerts.saturating_add(record.silent);
        let passes = may_pass && seen >= limits::UNTRUSTING_CONNECTIONS;
        if passes {
            record.passes_until = Some(now + limits::UNTRUSTING_PASS);
        }
        let quiet = record
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < limits::COMPLAIN_AGAIN);
        let tell = (!quiet || passes).then_some(record.total);
        if tell.is_some() {
            record.told = Some(now);
        }
        Refused { tell, passes }
    }

    fn excuse(&self, key: &Key) {
        if let Some(record) = self.lock().get_mut(key) {
            record.silent = 0;
        }
    }

    fn passes_at(&self, key: &Key, now: Instant) -> bool {
        self.lock()
            .get(key)
            .and_then(|record| record.passes_until)
            .is_some_and(|until| now < until)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Record>> {
        // Nothing panics while it holds the lock.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn of(workload: &Enrolment, host: &str) -> Self {
        Self {
            workload: workload.cgroup_id,
            host: host.to_owned(),
        }
    }
}

impl Record {
    fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            total: 0,
            alerts: 0,
            silent: 0,
            last: now,
            told: None,
            passes_until: None,
        }
    }

    fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < limits::UNTRUSTING_MEMORY
    }
}

/// Forgets what is old, or else the oldest.
fn make_room(records: &mut HashMap<Key, Record>, now: Instant) {
    records.retain(|_, record| record.is_remembered(now));
    if records.len() >= limits::UNTRUSTING
        && let Some(oldest) = records.values().map(|record| record.last).min()
    {
        records.retain(|_, record| record.last > oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(workload: u64, host: &str) -> Key {
        Key {
            workload,
            host: host.into(),
        }
    }

    #[test]
    fn passing_through_begins_after_some_alerts_and_ends() {
        let untrusting = Untrusting::default();
        let now = Instant::now();
        let refuse = |at, sign| untrusting.refused_at(key(1, "a.test"), "pod", sign, true, at);
        for n in 1..limits::UNTRUSTING_CONNECTIONS {
            assert!(!refuse(now, Sign::Alert).passes, "{n}");
            assert!(!untrusting.passes_at(&key(1, "a.test"), now), "{n}");
        }
        let last = refuse(now, Sign::Alert);
        assert_eq!(last.tell, Some(limits::UNTRUSTING_CONNECTIONS.into()));
        assert!(last.passes && untrusting.passes_at(&key(1, "a.test"), now));
        assert!(!untrusting.passes_at(&key(2, "a.test"), now));
        assert!(!untrusting.passes_at(&key(1, "b.test"), now));

        // It is tried again, and one connection tells that nothing has changed.
        let later = now + limits::UNTRUSTING_PASS;
        assert!(!untrusting.passes_at(&key(1, "a.test"), later));
        assert!(refuse(later, Sign::Alert).passes);
        assert!(untrusting.passes_at(&key(1, "a.test"), later));

        let forgotten = later + limits::UNTRUSTING_MEMORY;
        let anew = refuse(forgotten, Sign::Alert);
        assert_eq!((anew.tell, anew.passes), (Some(1), false));
    }

    #[test]
    fn nothing_passes_that_may_not() {
        let untrusting = Untrusting::default();
        let now = Instant::now();
        for n in 1..=100 {
            let refused = untrusting.refused_at(key(1, "a.test"), "pod", Sign::Alert, false, now);
            assert_eq!(refused.tell, (n == 1).then_some(1));
            assert!(!refused.passes && !untrusting.passes_at(&key(1, "a.test"), now));
        }
        assert_eq!(untrusting.list(), [("pod".into(), "a.test".into(), 100)]);
        let later = now + limits::COMPLAIN_AGAIN;
        let refused = untrusting.refused_at(key(1, "a.test"), "pod", Sign::Alert, false, later);
        assert_eq!(refused.tell, Some(101));
    }

    #[test]
    fn a_request_excuses_silence_and_no_alert() {
        let now = Instant::now();
        for (sign, passes) in [(Sign::Silence, false), (Sign::Alert, true)] {
            let untrusting = Untrusting::default();
            for _ in 1..limits::UNTRUSTING_CONNECTIONS {
                untrusting.refused_at(key(1, "a.test"), "pod", sign, true, now);
            }
            untrusting.excuse(&key(1, "a.test"));
            let last = untrusting.refused_at(key(1, "a.test"), "pod", sign, true, now);
            assert_eq!(last.passes, passes, "{sign:?}");
        }
    }

    #[test]
    fn the_oldest_makes_room() {
        let untrusting = Untrusting::default();
        let start = Instant::now();
        for n in 0..limits::UNTRUSTING as u64 + 10 {
            let at = start + std::time::Duration::from_millis(n);
            untrusting.refused_at(key(n, "a.test"), "pod", Sign::Alert, true, at);
        }
        let records = untrusting.lock();
        assert_eq!(records.len(), limits::UNTRUSTING);
        assert!(!records.contains_key(&key(0, "a.test")));
        assert!(records.contains_key(&key(10, "a.test")));
    }
}
