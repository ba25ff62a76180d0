//! Which request is sent next.
//!
//! Each job is in here once, however often it is asked for, and never runs twice at the same
//! time. What failed waits longer each time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use backon::ExponentialBackoff;

use crate::grants::Review;
use crate::model::Key;
use crate::pause;

/// The first wait after a failure, and the longest; each has up to its double as jitter.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Of so many jobs one is of the least urgent, so that those come to an end: some of them find
/// that a grant was taken away.
const SHARE: u32 = 8;

/// A request, by what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Read a Secret.
    Fetch(Key),
    /// Ask a review.
    Ask(Review),
    /// Write the status of a Connector.
    Write(Key),
}

/// What goes first; the last one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// There is an answer, which is looked at again. Namespaces take turns.
    Again,
    /// What there is holds until then.
    Normal,
    /// A pod waits for it, or a credential that was changed.
    Urgent,
}

/// The jobs to do.
#[derive(Debug, Default)]
pub(super) struct Queue {
    urgent: VecDeque<Job>,
    normal: VecDeque<Job>,
    again: Turns,
    /// How many jobs were started since the least urgent ones had their share.
    since_again: u32,
    /// Those of the three above that still count.
    queued: BTreeMap<Job, Urgency>,
    /// Those under way; some were asked for again meanwhile.
    running: BTreeMap<Job, Option<Urgency>>,
    failures: BTreeMap<Job, Failures>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    waits: ExponentialBackoff,
    /// Set while it waits.
    waiting: Option<Urgency>,
}

impl Queue {
    /// Asks for a job. One that waits after a failure goes on waiting.
    pub(super) fn push(&mut self, job: Job, urgency: Urgency) {
        if let Some(again) = self.running.get_mut(&job) {
            *again = Some(again.map_or(urgency, |it| it.max(urgency)));
            return;
        }
        let failures = self.failures.get_mut(&job);
        if let Some(waiting) = failures.and_then(|it| it.waiting.as_mut()) {
            *waiting = (*waiting).max(urgency);
            return;
        }
        if self.queued.get(&job).is_some_and(|it| *it >= urgency) {
            return;
        }
        self.queued.insert(job.clone(), urgency);
        match urgency {
            Urgency::Urgent => self.urgent.push_back(job),
            Urgency::Normal => self.normal.push_back(job),
            Urgency::Again => self.again.push(job),
        }
    }

    /// Asks for a job, unless it is under way: that will do.
    pub(super) fn ensure(&mut self, job: Job, urgency: Urgency) {
        if !self.running.contains_key(&job) {
            self.push(job, urgency);
        }
    }

    /// The next job; it is under way until [`Self::finish`] or [`Self::fail`].
    pub(super) fn pop(&mut self) -> Option<Job> {
        loop {
            let (job, urgency) = self.first()?;
            // It was cancelled, or is in another queue, or both and came back.
            if self.queued.get(&job) != Some(&urgency) {
                continue;
            }
            self.since_again = match urgency {
                Urgency::Again => 0,
                Urgency::Normal | Urgency::Urgent => self.since_again.saturating_add(1),
            };
            self.queued.remove(&job);
            self.running.insert(job.clone(), None);
            return Some(job);
        }
    }

    fn first(&mut self) -> Option<(Job, Urgency)> {
        if self.since_again + 1 >= SHARE
            && let Some(job) = self.again.pop()
        {
            return Some((job, Urgency::Again));
        }
        let urgent = self.urgent.pop_front().map(|job| (job, Urgency::Urgent));
        urgent
            .or_else(|| Some((self.normal.pop_front()?, Urgency::Normal)))
            .or_else(|| Some((self.again.pop()?, Urgency::Again)))
    }

    /// Whether nothing is to be started.
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// How many jobs are under way.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// A job is done.
    pub(super) fn finish(&mut self, job: &Job) {
        self.failures.remove(job);
        if let Some(Some(again)) = self.running.remove(job) {
            self.push(job.clone(), again);
        }
    }

    /// A job failed. Returns how often it has by now, and after which time to call
    /// [`Self::retry`].
    pub(super) fn fail(&mut self, job: &Job, urgency: Urgency) -> (u32, Duration) {
        let again = self.running.remove(job).flatten();
        let failures = self
            .failures
            .entry(job.clone())
            .or_insert_with(|| Failures {
                count: 0,
                waits: pause::growing(WAITS.0, WAITS.1),
                waiting: None,
            });
        failures.count = failures.count.saturating_add(1);
        failures.waiting = Some(urgency.max(again.unwrap_or(urgency)));
        (failures.count, failures.waits.next().unwrap_or(WAITS.1))
    }

    /// The time after a failure is over.
    pub(super) fn retry(&mut self, job: Job) {
        let failures = self.failures.get_mut(&job);
        if let Some(urgency) = failures.and_then(|it| it.waiting.take()) {
            self.push(job, urgency);
        }
    }

    /// A job is not needed any more. One that is under way runs to its end.
    pub(super) fn cancel(&mut self, job: &Job) {
        self.queued.remove(job);
        self.failures.remove(job);
        if let Some(again) = self.running.get_mut(job) {
            *again = None;
        }
    }

    /// The jobs under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &Job> {
        self.running.keys()
    }

    /// The jobs that are not done, and how often each has failed.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = (&Job, u32)> {
        let waiting = self.failures.iter();
        let waiting = waiting.filter(|(_, it)| it.waiting.is_some());
        let jobs: BTreeSet<&Job> = self
            .queued
            .keys()
            .chain(self.running.keys())
            .chain(waiting.map(|(job, _)| job))
            .collect();
        jobs.into_iter()
            .map(|job| (job, self.failures.get(job).map_or(0, |it| it.count)))
    }
}

impl Job {
    fn namespace(&self) -> &str {
        match self {
            Self::Fetch(key) | Self::Write(key) => &key.namespace,
            Self::Ask(review) => &review.namespace,
        }
    }
}

/// Jobs of namespaces that take turns, so that one with many holds up no other.
#[derive(Debug, Default)]
struct Turns {
    jobs: BTreeMap<String, VecDeque<Job>>,
    order: VecDeque<String>,
}

impl Turns {
    fn push(&mut self, job: Job) {
        let namespace = job.namespace().to_owned();
        let jobs = self.jobs.entry(namespace.clone()).or_default();
        if jobs.is_empty() {
            self.order.push_back(namespace);
        }
        jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let namespace = self.order.pop_front()?;
        let jobs = self.jobs.get_mut(&namespace)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::Urgency::{Again, Normal, Urgent};
    use super::*;

    fn job(name: &str) -> Job {
        Job::Write(Key::new("team", name))
    }

    fn all(queue: &mut Queue) -> Vec<Job> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn urgent_jobs_overtake_and_each_runs_once() {
        let mut queue = Queue::default();
        for (name, urgency) in [("a", Normal), ("b", Normal), ("c", Urgent), ("b", Urgent)] {
            queue.push(job(name), urgency);
            queue.push(job(name), Normal);
        }
        assert_eq!(all(&mut queue), [job("c"), job("b"), job("a")]);
        assert_eq!(queue.running(), 3);
    }

    #[test]
    fn namespaces_take_turns_with_what_is_done_again() {
        let of = |namespace: &str, name: &str| Job::Write(Key::new(namespace, name));
        let mut queue = Queue::default();
        for name in ["a", "b", "c"] {
            queue.push(of("busy", name), Again);
        }
        queue.push(of("quiet", "a"), Again);
        queue.push(job("first"), Normal);
        let expected = [
            job("first"),
            of("busy", "a"),
            of("quiet", "a"),
            of("busy", "b"),
            of("busy", "c"),
        ];
        assert_eq!(all(&mut queue), expected);
    }

    #[test]
    fn what_is_done_again_is_done_in_the_end() {
        let mut queue = Queue::default();
        queue.push(job("again"), Again);
        let popped = (0..SHARE).map(|number| {
            queue.push(job(&format!("normal-{number}")), Normal);
            queue.pop()
        });
        let popped: Vec<_> = popped.collect();
        assert_eq!(popped.last(), Some(&Some(job("again"))));
    }

    #[test]
    fn a_job_that_is_asked_for_while_it_runs_runs_again_afterwards() {
        let mut queue = Queue::default();
        queue.push(job("a"), Normal);
        queue.pop();
        queue.push(job("a"), Normal);
        assert_eq!(queue.pop(), None);
        queue.finish(&job("a"));
        assert_eq!(queue.pop(), Some(job("a")));
        queue.finish(&job("a"));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_job_under_way_will_do_for_those_who_want_no_more() {
        let mut queue = Queue::default();
        queue.ensure(job("a"), Normal);
        assert_eq!(queue.pop(), Some(job("a")));
        queue.ensure(job("a"), Urgent);
        queue.finish(&job("a"));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_failed_job_waits_longer_each_time_and_starts_anew_after_a_success() {
        let mut queue = Queue::default();
        queue.push(job("a"), Normal);
        let mut last = Duration::ZERO;
        for count in 1..5 {
            assert_eq!(queue.pop(), Some(job("a")));
            let (failures, wait) = queue.fail(&job("a"), Normal);
            assert_eq!(failures, count);
            assert!(wait > last / 2, "{wait:?} after {last:?}");
            last = wait;
            // Asking for it again does not make it a hot loop.
            queue.push(job("a"), Urgent);
            assert_eq!(queue.pop(), None);
            assert_eq!(queue.unsettled().collect::<Vec<_>>(), [(&job("a"), count)]);
            queue.retry(job("a"));
        }
        queue.pop();
        queue.finish(&job("a"));
        assert_eq!(queue.unsettled().count(), 0);
        queue.push(job("a"), Normal);
        queue.pop();
        assert_eq!(queue.fail(&job("a"), Normal).0, 1);
    }

    #[test]
    fn waits_are_bounded() {
        let mut queue = Queue::default();
        queue.push(job("a"), Normal);
        for _ in 0..64 {
            queue.pop();
            let (_, wait) = queue.fail(&job("a"), Normal);
            assert!(wait <= 2 * WAITS.1);
            queue.retry(job("a"));
        }
    }

    #[test]
    fn a_cancelled_job_does_not_run() {
        let mut queue = Queue::default();
        queue.push(job("queued"), Normal);
        queue.cancel(&job("queued"));
        assert!(queue.is_empty());
        assert_eq!(queue.pop(), None);

        queue.push(job("waiting"), Normal);
        queue.pop();
        queue.fail(&job("waiting"), Normal);
        queue.cancel(&job("waiting"));
        queue.retry(job("waiting"));
        assert_eq!(queue.pop(), None);

        queue.push(job("running"), Normal);
        queue.pop();
        queue.push(job("running"), Normal);
        queue.cancel(&job("running"));
        queue.finish(&job("running"));
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.unsettled().count(), 0);
    }

    #[test]
    fn a_job_that_comes_back_after_it_was_cancelled_runs_once() {
        let mut queue = Queue::default();
        queue.push(job("a"), Normal);
        queue.cancel(&job("a"));
        queue.push(job("a"), Normal);
        assert_eq!(all(&mut queue), [job("a")]);
    }
}
