//! The rate of requests to the API server: a token bucket.
//!
//! It is asked when a request is chosen, not by the request itself: what waits stays in the
//! queue, where something urgent can overtake it. That is why it is neither a layer of the
//! client nor a limiter that callers wait in.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The time between two tokens.
    interval: Duration,
    /// How far the bucket can be ahead: the time that a full one takes to fill.
    depth: Duration,
    /// When the bucket would be full again; in the past if it is.
    full_at: Instant,
}

impl Bucket {
    /// A full one: `burst` requests at once, `rate` per second in the long run.
    pub(super) fn new(rate: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / rate.get();
        Self {
            interval,
            depth: interval * burst.get(),
            full_at: now,
        }
    }

    /// Takes a token, or says when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.max(now) + self.interval;
        let available = full_at.checked_sub(self.depth).unwrap_or(now);
        if available > now {
            return Err(available);
        }
        self.full_at = full_at;
        Ok(())
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
