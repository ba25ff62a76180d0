//! How long to wait before something is done again.

use std::time::Duration;

/// A pause that grows with the number of failures, from `first` to `longest`, with jitter.
pub(crate) fn after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1));
    let pause = doubled.map_or(longest, |times| first.saturating_mul(times));
    spread(pause.min(longest))
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

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_grow_to_the_longest() {
        for (failures, expected) in [(0, 1), (1, 1), (2, 2), (5, 16), (6, 30), (u32::MAX, 30)] {
            let expected = Duration::from_secs(expected);
            let pause = after(failures, FIRST, LONGEST);
            assert!(pause >= expected.mul_f64(0.89), "{failures}: {pause:?}");
            assert!(pause <= expected.mul_f64(1.11), "{failures}: {pause:?}");
        }
    }
}
