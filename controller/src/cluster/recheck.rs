//! When to look at something once more.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// What is to be looked at once more, each a while after it was noted last.
///
/// Those that are noted while others wait do not put these off: they have a round of their own.
#[derive(Debug)]
pub(super) struct Recheck<T> {
    pause: Duration,
    at: Option<Instant>,
    due: BTreeSet<T>,
    next: BTreeSet<T>,
}

impl<T: Ord> Recheck<T> {
    /// Nothing yet; from `pause` to its double after it was noted it is due.
    pub(super) fn after(pause: Duration) -> Self {
        Self {
            pause,
            at: None,
            due: BTreeSet::new(),
            next: BTreeSet::new(),
        }
    }

    /// Notes what happened just now.
    pub(super) fn note(&mut self, what: impl IntoIterator<Item = T>, now: Instant) {
        let noted = if self.at.is_some() {
            &mut self.next
        } else {
            &mut self.due
        };
        noted.extend(what);
        if !self.due.is_empty() {
            self.at.get_or_insert(now + self.pause);
        }
    }

    /// When something is due; `None` if nothing is noted.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// What is due.
    pub(super) fn take(&mut self, now: Instant) -> BTreeSet<T> {
        if self.at.is_none_or(|at| now < at) {
            return BTreeSet::new();
        }
        let next = std::mem::take(&mut self.next);
        self.at = (!next.is_empty()).then(|| now + self.pause);
        std::mem::replace(&mut self.due, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[test]
    fn what_goes_on_changing_puts_nothing_off() {
        let start = Instant::now();
        let mut recheck = Recheck::after(PAUSE);
        recheck.note([0], start);
        let at = start + PAUSE;
        for second in 1..5 {
            recheck.note([second], start + Duration::from_secs(second));
            assert_eq!(recheck.at(), Some(at));
        }
        assert!(recheck.take(start).is_empty(), "not yet");
        assert_eq!(recheck.take(at), [0].into());
        // The others have not waited long enough; their time comes without another change.
        assert_eq!(recheck.at(), Some(at + PAUSE));
        assert_eq!(recheck.take(at + PAUSE), [1, 2, 3, 4].into());
        assert_eq!(recheck.at(), None);
    }

    #[test]
    fn what_changes_again_while_it_waits_is_looked_at_twice() {
        let start = Instant::now();
        let mut recheck = Recheck::after(PAUSE);
        recheck.note(["a"], start);
        recheck.note(["a"], start + PAUSE / 2);
        assert_eq!(recheck.take(start + PAUSE), ["a"].into());
        assert_eq!(recheck.take(start + PAUSE * 2), ["a"].into());
    }

    #[test]
    fn nothing_noted_is_nothing_due() {
        let mut recheck: Recheck<u8> = Recheck::after(PAUSE);
        recheck.note([], Instant::now());
        assert_eq!(recheck.at(), None);
    }
}
