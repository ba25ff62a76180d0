//! What may happen often and is to be told seldom.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Counts events, and says when it is time to tell of them.
#[derive(Debug)]
pub struct Seldom {
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Events to be told of once in `pause`.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            state: Mutex::default(),
        }
    }

    /// One more event. The number of those that were not told of yet, if it is time.
    pub fn happened(&self) -> Option<u64> {
        self.happened_at(Instant::now())
    }

    fn happened_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        let since = state.told.map(|told| now.saturating_duration_since(told));
        if since.is_some_and(|since| since < self.pause) {
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_events_are_told_of_as_one() {
        let minute = Duration::from_mins(1);
        let seldom = Seldom::new(minute);
        let start = Instant::now();
        assert_eq!(seldom.happened_at(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(seldom.happened_at(start + minute / 2), None);
        }
        assert_eq!(seldom.happened_at(start + minute), Some(1001));
        assert_eq!(seldom.happened_at(start + minute), None);
    }
}
