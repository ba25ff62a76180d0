//! What an evaluation costs is the processor time of its thread: on a busy machine a sound
//! generator may wait longer than it works.

use std::sync::Once;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use regorus::utils::limits::{TimeSource, set_time_source};

struct ThreadTime;

impl TimeSource for ThreadTime {
    fn now(&self) -> Option<Duration> {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .ok()
            .map(Duration::from)
    }
}

/// Has the engine measure time this way; it takes one source for the whole process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Fails when there is a source already, and nobody else sets one.
        if set_time_source(&ThreadTime).is_err() {
            tracing::warn!("the time of generators is measured by another clock");
        }
    });
}
