//! What is known about names, and for how long. The time is told, so that nothing here waits.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use super::ResolveError;
use crate::limits;

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// In the order in which they are to be tried; never empty.
    pub(super) addresses: Arc<[IpAddr]>,
    /// When to ask again.
    pub(super) until: Instant,
    asked: Instant,
    /// Of the files that it was asked with.
    epoch: u64,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    names: HashMap<String, Known>,
    /// Names that are not forgotten, however many there are.
    kept: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Known {
    /// Held by whoever asks, so that nobody else does.
    flight: Arc<Mutex<()>>,
    answer: Option<Answer>,
    failure: Option<Failure>,
    failures: u64,
    /// Everything that the name resolved to of late: a workload may still dial what an
    /// earlier answer told it.
    seen: HashMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Failure {
    error: ResolveError,
    until: Instant,
    epoch: u64,
}

/// What is known about a name at some time.
#[derive(Debug)]
pub(super) enum Look {
    /// To be used.
    Fresh(Answer),
    /// To be asked for.
    Ask {
        /// To be used if nobody answers.
        stale: Option<Answer>,
        /// The last attempt failed, a moment ago.
        failure: Option<ResolveError>,
        /// How many have failed that had all the time they may take.
        failures: u64,
        flight: Arc<Mutex<()>>,
    },
}

impl Memory {
    pub(super) fn keep(&mut self, names: BTreeSet<String>) {
        self.kept = names;
    }

    pub(super) fn look(&mut self, host: &str, epoch: u64, now: Instant) -> Look {
        if !self.names.contains_key(host) {
            self.make_room(now);
        }
        let known = self.names.entry(host.to_owned()).or_default();
        if let Some(answer) = known.answer.as_ref().filter(|it| it.is_fresh(epoch, now)) {
            return Look::Fresh(answer.clone());
        }
        let failure = known.failure.as_ref();
        Look::Ask {
            stale: known.answer.clone().filter(|answer| answer.is_usable(now)),
            failure: failure
                .filter(|failure| failure.epoch == epoch && now < failure.until)
                .map(|failure| failure.error.clone()),
            failures: known.failures,
            flight: Arc::clone(&known.flight),
        }
    }

    /// Takes over what was asked for at `now`.
    pub(super) fn remember(
        &mut self,
        host: &str,
        addresses: Vec<IpAddr>,
        ttl: Duration,
        epoch: u64,
        now: Instant,
    ) -> Answer {
        let known = self.names.entry(host.to_owned()).or_default();
        let seen = &mut known.seen;
        seen.retain(|_, last| now.duration_since(*last) < limits::ADDRESS_LIFE);
        seen.extend(addresses.iter().map(|ip| (*ip, now)));
        while seen.len() > limits::ADDRESSES_PER_NAME {
            let oldest = seen
                .iter()
                .min_by_key(|(_, last)| **last)
                .map(|(ip, _)| *ip);
            let Some(oldest) = oldest else { break };
            seen.remove(&oldest);
        }
        let answer = Answer {
            addresses: addresses.into(),
            until: now + ttl.clamp(limits::RESOLVE_AGAIN, limits::RESOLVE_LATEST),
            asked: now,
            epoch,
        };
        known.failure = None;
        known.answer = Some(answer.clone());
        answer
    }

    /// The same when nobody answered for the other family: what was known of that stays for as
    /// long as an answer is good, and both are asked for again soon.
    pub(super) fn remember_family(
        &mut self,
        host: &str,
        addresses: Vec<IpAddr>,
        epoch: u64,
        now: Instant,
    ) -> Answer {
        let is_ipv6 = addresses.first().is_some_and(IpAddr::is_ipv6);
        let before = self.names.get(host).and_then(|known| known.answer.clone());
        let mut answer = self.remember(host, addresses, Duration::ZERO, epoch, now);
        let known = self.names.entry(host.to_owned()).or_default();
        let others = before.iter().flat_map(|before| before.addresses.iter());
        // What was last told too long ago has just been forgotten.
        let others = others.filter(|ip| ip.is_ipv6() != is_ipv6 && known.seen.contains_key(ip));
        let mut addresses: Vec<_> = answer.addresses.iter().chain(others).copied().collect();
        addresses.truncate(limits::ADDRESSES_PER_NAME);
        addresses.sort_by_key(IpAddr::is_ipv6);
        answer.addresses = addresses.into();
        known.answer = Some(answer.clone());
        answer
    }

    /// One `in_haste` is none for those who have more time, and wait for their turn.
    pub(super) fn remember_failure(
        &mut self,
        host: &str,
        error: ResolveError,
        in_haste: bool,
        epoch: u64,
        now: Instant,
    ) {
        let known = self.names.entry(host.to_owned()).or_default();
        known.failures += u64::from(!in_haste);
        known.failure = Some(Failure {
            error,
            until: now + limits::RESOLVE_AGAIN,
            epoch,
        });
    }

    /// Every address that a workload may have been told.
    pub(super) fn seen(&self, host: &str) -> Vec<IpAddr> {
        let known = self.names.get(host);
        known.map_or_else(Vec::new, |known| known.seen.keys().copied().collect())
    }

    /// Makes an answer, or a failure, an old one.
    #[cfg(test)]
    pub(super) fn expire(&mut self, host: &str, now: Instant) {
        let known = self.names.get_mut(host).expect("it was asked for");
        known.failure = None;
        if let Some(answer) = &mut known.answer {
            answer.until = now;
        }
    }

    /// Forgets what is not needed, as soon as there is too much: what is old first, then all but
    /// the names that are kept and those that are being asked for.
    fn make_room(&mut self, now: Instant) {
        if self.names.len() < limits::NAMES {
            return;
        }
        let kept = &self.kept;
        let needed =
            |name: &str, known: &Known| kept.contains(name) || Arc::strong_count(&known.flight) > 1;
        self.names.retain(|name, known| {
            let answer = known.answer.as_ref();
            needed(name, known) || answer.is_some_and(|answer| now < answer.until)
        });
        if self.names.len() >= limits::NAMES {
            self.names.retain(|name, known| needed(name, known));
        }
    }
}

impl Answer {
    fn is_fresh(&self, epoch: u64, now: Instant) -> bool {
        self.epoch == epoch && now < self.until
    }

    /// A resolver that fails for a while is no reason to forget a good answer.
    fn is_usable(&self, now: Instant) -> bool {
        now.duration_since(self.asked) < limits::ADDRESS_LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "registry.example.com";
    const EPOCH: u64 = 1;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn error() -> ResolveError {
        ResolveError::NoName(ip(53))
    }

    fn fresh(memory: &mut Memory, epoch: u64, now: Instant) -> Option<Vec<IpAddr>> {
        match memory.look(HOST, epoch, now) {
            Look::Fresh(answer) => Some(answer.addresses.to_vec()),
            Look::Ask { .. } => None,
        }
    }

    fn stale(memory: &mut Memory, now: Instant) -> Option<Vec<IpAddr>> {
        match memory.look(HOST, EPOCH, now) {
            Look::Fresh(_) => panic!("it is fresh"),
            Look::Ask { stale, .. } => stale.map(|answer| answer.addresses.to_vec()),
        }
    }

    #[test]
    fn an_answer_is_used_until_its_ttl_ends() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let ttl = Duration::from_mins(1);
        let almost = |ttl: Duration| start + ttl - Duration::from_millis(1);
        memory.remember(HOST, vec![ip(1)], ttl, EPOCH, start);
        assert_eq!(fresh(&mut memory, EPOCH, almost(ttl)), Some(vec![ip(1)]));
        assert_eq!(fresh(&mut memory, EPOCH, start + ttl), None);

        let (none, ages) = (Duration::ZERO, Duration::from_hours(24));
        memory.remember(HOST, vec![ip(1)], none, EPOCH, start);
        assert!(fresh(&mut memory, EPOCH, almost(limits::RESOLVE_AGAIN)).is_some());
        assert!(fresh(&mut memory, EPOCH, start + limits::RESOLVE_AGAIN).is_none());
        memory.remember(HOST, vec![ip(1)], ages, EPOCH, start);
        assert!(fresh(&mut memory, EPOCH, almost(limits::RESOLVE_LATEST)).is_some());
        assert!(fresh(&mut memory, EPOCH, start + limits::RESOLVE_LATEST).is_none());
        assert!(limits::RESOLVE_LATEST < limits::ADDRESS_LIFE);
    }

    #[test]
    fn other_files_make_answers_and_failures_old() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.remember(HOST, vec![ip(1)], Duration::from_mins(1), EPOCH, now);
        assert!(fresh(&mut memory, EPOCH, now).is_some());
        assert!(fresh(&mut memory, EPOCH + 1, now).is_none());

        memory.remember_failure(HOST, error(), false, EPOCH + 1, now);
        let failure = |memory: &mut Memory, epoch, now| match memory.look(HOST, epoch, now) {
            Look::Fresh(_) => panic!("it is fresh"),
            Look::Ask { failure, .. } => failure,
        };
        assert_eq!(failure(&mut memory, EPOCH + 1, now), Some(error()));
        assert_eq!(failure(&mut memory, EPOCH + 2, now), None);
        let later = now + limits::RESOLVE_AGAIN;
        assert_eq!(failure(&mut memory, EPOCH + 1, later), None);
    }

    #[test]
    fn an_old_answer_serves_until_there_is_another() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        assert_eq!(stale(&mut memory, start), None);
        memory.remember(HOST, vec![ip(1)], Duration::ZERO, EPOCH, start);
        let later = start + limits::RESOLVE_AGAIN;
        memory.remember_failure(HOST, error(), false, EPOCH, later);
        assert_eq!(stale(&mut memory, later), Some(vec![ip(1)]));
        assert_eq!(stale(&mut memory, start + limits::ADDRESS_LIFE), None);
        // The kernel goes on redirecting it all the same.
        assert_eq!(memory.seen(HOST), [ip(1)]);
    }

    #[test]
    fn earlier_answers_stay_redirected_for_a_while() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.remember(HOST, vec![ip(1)], Duration::ZERO, EPOCH, start);
        let later = start + limits::RESOLVE_LATEST;
        memory.remember(HOST, vec![ip(2)], Duration::ZERO, EPOCH, later);
        assert_eq!(fresh(&mut memory, EPOCH, later), Some(vec![ip(2)]));
        let mut all = memory.seen(HOST);
        all.sort();
        assert_eq!(all, [ip(1), ip(2)]);
        let much_later = start + limits::ADDRESS_LIFE;
        memory.remember(HOST, vec![ip(2)], Duration::ZERO, EPOCH, much_later);
        assert_eq!(memory.seen(HOST), [ip(2)]);
    }

    #[test]
    fn a_family_that_nobody_answers_for_stays_for_a_while() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let six: IpAddr = "2001:db8::1".parse().expect("an address");
        let ttl = Duration::from_mins(1);
        memory.remember(HOST, vec![ip(1), six], ttl, EPOCH, start);
        let mut now = start;
        while now + ttl < start + limits::ADDRESS_LIFE {
            now += ttl;
            let answer = memory.remember_family(HOST, vec![ip(2)], EPOCH, now);
            assert_eq!(*answer.addresses, [ip(2), six]);
            assert_eq!(answer.until, now + limits::RESOLVE_AGAIN);
            assert_eq!(fresh(&mut memory, EPOCH, now), Some(vec![ip(2), six]));
        }
        let answer = memory.remember_family(HOST, vec![six], EPOCH, now);
        assert_eq!(*answer.addresses, [ip(2), six], "IPv4 first");
        let later = now + limits::ADDRESS_LIFE;
        let answer = memory.remember_family(HOST, vec![ip(3)], EPOCH, later);
        assert_eq!(*answer.addresses, [ip(3)]);
        assert_eq!(memory.seen(HOST), [ip(3)]);
    }

    #[test]
    fn a_name_has_only_so_many_addresses() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        for n in 0..=limits::ADDRESSES_PER_NAME {
            let ip = IpAddr::from([
                10,
                0,
                u8::try_from(n / 256).expect("small"),
                n.to_le_bytes()[0],
            ]);
            let now = start + Duration::from_millis(n as u64);
            memory.remember(HOST, vec![ip], Duration::ZERO, EPOCH, now);
        }
        let seen = memory.seen(HOST);
        assert_eq!(seen.len(), limits::ADDRESSES_PER_NAME);
        assert!(!seen.contains(&IpAddr::from([10, 0, 0, 0])));
    }

    #[test]
    fn names_of_connectors_are_never_forgotten() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep(BTreeSet::from(["kept.example.com".to_owned()]));
        let ttl = Duration::from_mins(1);
        memory.remember("kept.example.com", vec![ip(1)], ttl, EPOCH, now);
        let Look::Ask { flight, .. } = memory.look(HOST, EPOCH, now) else {
            panic!("it is known");
        };
        for n in 0..=limits::NAMES {
            let name = format!("{n}.example.com");
            assert!(matches!(memory.look(&name, EPOCH, now), Look::Ask { .. }));
            memory.remember(&name, vec![ip(1)], ttl, EPOCH, now);
        }
        assert_eq!(memory.seen("kept.example.com"), [ip(1)]);
        assert_eq!(memory.seen("0.example.com"), Vec::<IpAddr>::new());
        assert!(memory.names.len() <= limits::NAMES);
        // What is being asked for is not asked for twice.
        let again = memory.look(HOST, EPOCH, now);
        assert!(matches!(again, Look::Ask { flight: same, .. } if Arc::ptr_eq(&same, &flight)));
    }
}
