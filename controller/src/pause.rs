//! How long to wait before something is done again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Pauses after failures: each is twice the last, from `first` to `longest`, and has up to
/// its double as jitter. They do not end.
pub(crate) fn growing(first: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// From nine to eleven tenths of a time, so that what began together does not end together.
pub(crate) fn spread(time: Duration) -> Duration {
    let mut random = [0];
    // Without randomness there is no jitter, and nothing else is lost.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return time;
    }
    time.mul_f64(0.9 + 0.2 * f64::from(random[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_stays_near_the_time() {
        let time = Duration::from_secs(100);
        for _ in 0..100 {
            let spread = spread(time);
            assert!((90..=110).contains(&spread.as_secs()), "{spread:?}");
        }
    }

    #[test]
    fn pauses_grow_to_the_longest_and_do_not_end() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(30));
        let pauses: Vec<_> = growing(first, longest).take(50).collect();
        assert_eq!(pauses.len(), 50);
        assert!(pauses[0] <= 2 * first);
        assert!(
            pauses
                .iter()
                .skip(10)
                .all(|it| (longest..=2 * longest).contains(it))
        );
    }
}
