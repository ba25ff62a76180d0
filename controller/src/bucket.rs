//! A token bucket: a rate, and how much may come at once.
//!
//! It is asked and does not wait: a job that gets no token stays where something urgent can
//! overtake it, and a caller is told to come back. That is why it is neither a layer of the
//! client nor a limiter that callers wait in.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// The time between two tokens.
    interval: Duration,
    /// How far the bucket can be ahead: the time that a full one takes to fill.
    depth: Duration,
    /// When the bucket would be full again; in the past if it is.
    full_at: Instant,
}

impl Bucket {
    /// A full one: `burst` requests at once, `rate` per second in the long run.
    pub(crate) fn new(rate: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / rate.get();
        Self {
            interval,
            depth: interval * burst.get(),
            full_at: now,
        }
    }

    /// Takes a token, or says when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.max(now) + self.interval;
        let available = full_at.checked_sub(self.depth).unwrap_or(now);
        if available > now {
            return Err(available);
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// One that several threads take from.
#[derive(Debug)]
pub(crate) struct SharedBucket(Mutex<Bucket>);

impl SharedBucket {
    /// A full one.
    pub(crate) fn new(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        Self(Mutex::new(Bucket::new(rate, burst, Instant::now())))
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&self) -> bool {
        // Nothing panics while it holds the lock.
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(Instant::now()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u32) -> NonZeroU32 {
        NonZeroU32::new(value).expect("not zero")
    }

    fn taken(bucket: &mut Bucket, now: Instant) -> usize {
        std::iter::from_fn(|| bucket.take(now).ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(number(50), number(100), start);
        assert_eq!(taken(&mut bucket, start), 100);
        assert_eq!(
            bucket.take(start),
            Err(start + Duration::from_millis(20)),
            "it says when"
        );
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(20)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1)), 49);
    }

    #[test]
    fn it_never_holds_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(number(50), number(3), start);
        assert_eq!(taken(&mut bucket, start + Duration::from_hours(1)), 3);
    }
}
