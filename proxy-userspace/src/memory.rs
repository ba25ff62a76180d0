//! Memory that a rush of connections took goes back to the system when it is over.
//!
//! The C library keeps what is freed for what comes next, unless it lies at the very end of the
//! heap. On a node that is shared, the most that was ever needed is not to stay taken for ever.

use tokio::time::Instant;

use crate::limits;

/// When to give memory back.
#[derive(Debug, Default)]
pub struct Rush {
    /// The most connections that were open since memory was given back.
    most: u64,
    /// When the connections to upstreams that the rush left behind are closed as well.
    end: Option<Instant>,
    /// Not before.
    next: Option<Instant>,
}

impl Rush {
    /// Has to be called once in a while, with the number of open connections: whether it is time.
    pub fn is_over(&mut self, open: u64, now: Instant) -> bool {
        self.most = self.most.max(open);
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        if self.most - open >= limits::RUSH && open <= self.most / 2 {
            self.most = open;
            self.next = Some(now + limits::RUSH_PAUSE);
            self.end = Some(now + limits::IDLE_TIME + limits::POOL_SWEEP);
            return true;
        }
        self.end.take_if(|end| *end <= now).is_some()
    }
}

/// Gives back all that is free. Takes a few milliseconds for each 100 MiB of heap.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the C library's allocator has no other way to be asked"
)]
pub fn give_back() {
    // SAFETY: the allocator's own function, made for being called at any time by any thread; it
    // touches nothing that is allocated.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries have nothing like it.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_given_back_after_a_rush_and_when_its_upstream_connections_are_closed() {
        let mut rush = Rush::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, open, over) in [
            (0, 10, false),
            (2, 0, false),
            (4, 1_000, false),
            (6, 600, false),
            (8, 500, true),
            (10, 490, false),
            (60, 480, false),
            (64, 480, true),
            (66, 480, false),
            (68, 100, true),
            (70, 0, false),
            (78, 0, true),
            (80, 0, false),
        ] {
            assert_eq!(rush.is_over(open, at(second)), over, "at {second} s");
        }
    }
}
