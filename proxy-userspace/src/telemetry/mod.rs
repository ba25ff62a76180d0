//! What happened.

mod seldom;

pub use seldom::Seldom;

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Counters of the proxy.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are being served.
    pub open: AtomicU64,
    /// Redirected connections that were accepted.
    pub accepted: AtomicU64,
    /// Times when a workload had as many connections as it may have, and more had to wait.
    pub held_up: AtomicU64,
    /// Connections that could not be accepted.
    pub failed_accepts: AtomicU64,
    /// Connections to a listener without a flow; reset.
    pub unknown_flows: AtomicU64,
    /// Connections whose requests Postern saw.
    pub intercepted: AtomicU64,
    /// Connections passed through byte for byte.
    pub spliced: AtomicU64,
    /// Bytes of those that have ended, both directions.
    pub spliced_bytes: AtomicU64,
    /// Clients that did not accept Postern's certificate.
    pub untrusting: AtomicU64,
    /// Requests forwarded with a credential.
    pub injected: AtomicU64,
    /// Requests forwarded without one.
    pub plain: AtomicU64,
    /// Requests answered by Postern itself on behalf of the upstream.
    pub answered: AtomicU64,
    /// Requests refused.
    pub refused: AtomicU64,
    /// Of these: the upstream stopped taking their body.
    pub stalled: AtomicU64,
    /// Fields of answers that were removed because they held an injected credential.
    pub scrubbed: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes from a counter that goes both ways.
    pub fn subtract(counter: &AtomicU64, n: u64) {
        counter.fetch_sub(n, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections: accepted={} intercepted={} spliced={} spliced_bytes={} untrusting={} \
             unknown={} held_up={} failed_accepts={}; \
             requests: injected={} plain={} answered={} refused={} stalled={} scrubbed={}",
            Self::read(&self.accepted),
            Self::read(&self.intercepted),
            Self::read(&self.spliced),
            Self::read(&self.spliced_bytes),
            Self::read(&self.untrusting),
            Self::read(&self.unknown_flows),
            Self::read(&self.held_up),
            Self::read(&self.failed_accepts),
            Self::read(&self.injected),
            Self::read(&self.plain),
            Self::read(&self.answered),
            Self::read(&self.refused),
            Self::read(&self.stalled),
            Self::read(&self.scrubbed),
        )
    }
}
