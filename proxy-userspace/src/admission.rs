//! How many connections there may be, of one workload and of all.
//!
//! What bounds them is descriptors. A part of those that the process may have is kept for all
//! else: connections to upstreams, the controller, maps, listeners. The others are places, one
//! for each descriptor of a connection: its socket, and the server's unless it is intercepted. One
//! that has become a tunnel has a server's socket for itself, and both places again.
//!
//! A workload may have twice as many places as are free at that moment (dynamic thresholds, as
//! switches share their buffers: Choudhury and Hahne, 1998). Alone it gets two thirds; whoever
//! comes then finds the last third free, and there is always some left for one that has none.
//! Nothing is set aside for workloads that do not use it. Connections beyond that wait in the
//! backlog of the listener, where a client's `connect()` has succeeded, as those of nginx and
//! haproxy do.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;

use crate::{
    limits::{self, Tuning},
    telemetry::{Counters, Seldom},
};

/// The client's, and one towards the server.
const SOCKETS: usize = 2;

/// Places for the connections of all workloads.
#[derive(Debug)]
pub struct Admission {
    places: usize,
    /// May be more for a moment: all listeners accept at the same time.
    taken: AtomicUsize,
    freed: Notify,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(&Tuning::default())
    }
}

impl Admission {
    /// As many places as `tuning` says, or as the limit of open files leaves.
    pub fn new(tuning: &Tuning) -> Self {
        let places = tuning.connections.unwrap_or_else(|| {
            // Fails for no limit that exists.
            let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            places_of(usize::try_from(open_files).unwrap_or(usize::MAX))
        });
        Self {
            places,
            taken: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    fn free(&self) -> usize {
        self.places
            .saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// Places in a process that may have that many open files.
fn places_of(open_files: usize) -> usize {
    let open_files = open_files.min(limits::OPEN_FILES);
    let reserve = (open_files / 5).max(limits::DESCRIPTOR_RESERVE);
    open_files.saturating_sub(reserve).max(open_files / 2)
}

/// What one workload has of them.
#[derive(Debug)]
pub struct Share {
    all: Arc<Admission>,
    /// Most connections.
    most: usize,
    connections: AtomicUsize,
    places: AtomicUsize,
    counters: Arc<Counters>,
    /// Times when more had to wait.
    full: Seldom,
}

impl Share {
    /// A share of `all`, with nothing taken.
    pub fn new(all: &Arc<Admission>, tuning: &Tuning, counters: &Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::clone(all),
            most: tuning.connections_per_workload,
            connections: AtomicUsize::new(0),
            places: AtomicUsize::new(0),
            counters: Arc::clone(counters),
            full: Seldom::new(limits::COMPLAIN_AGAIN),
        })
    }

    /// Waits until there is room for one more connection of `workload`.
    pub async fn room(&self, workload: &str) {
        let mut told = false;
        loop {
            let mut freed = pin!(self.all.freed.notified());
            // From here on none is missed.
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            if !told {
                told = true;
                self.tell(workload);
            }
            freed.await;
        }
    }

    /// Takes the places of a connection, of which it is not known yet what becomes of it.
    pub fn enter(self: &Arc<Self>) -> Slot {
        Counters::add(&self.counters.open, 1);
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.places.fetch_add(SOCKETS, Ordering::Relaxed);
        self.all.taken.fetch_add(SOCKETS, Ordering::Relaxed);
        Slot {
            share: Arc::clone(self),
            places: AtomicUsize::new(SOCKETS),
        }
    }

    fn has_room(&self) -> bool {
        self.connections.load(Ordering::Relaxed) < self.most && self.has_place()
    }

    fn has_place(&self) -> bool {
        self.places.load(Ordering::Relaxed) < self.all.free().saturating_mul(2)
    }

    fn tell(&self, workload: &str) {
        Counters::add(&self.counters.held_up, 1);
        if let Some(count) = self.full.happened() {
            tracing::warn!(
                workload,
                count,
                connections = self.connections.load(Ordering::Relaxed),
                "has as many connections as it may have now (--connections-per-workload, \
                 --connections, limit of open files); more wait until some end"
            );
        }
    }
}

/// A place among the open connections of a workload.
#[derive(Debug)]
pub struct Slot {
    share: Arc<Share>,
    places: AtomicUsize,
}

impl Slot {
    /// Takes the place for a server's socket once more, until what it returns is dropped: a
    /// tunnel has a connection of the pool for itself. `None` if the workload may not have it now.
    pub fn widen(self: &Arc<Self>) -> Option<Wide> {
        if !self.share.has_place() {
            return None;
        }
        if self.places.swap(SOCKETS, Ordering::Relaxed) < SOCKETS {
            self.share.places.fetch_add(1, Ordering::Relaxed);
            self.share.all.taken.fetch_add(1, Ordering::Relaxed);
        }
        Some(Wide(Arc::clone(self)))
    }

    /// Gives back the place for a server's socket: what is intercepted uses connections of the
    /// pool, which has limits of its own.
    pub fn narrow(&self) {
        if self.places.swap(1, Ordering::Relaxed) > 1 {
            self.share.places.fetch_sub(1, Ordering::Relaxed);
            self.share.all.taken.fetch_sub(1, Ordering::Relaxed);
            self.share.all.freed.notify_waiters();
        }
    }
}

/// Both places of a connection.
#[derive(Debug)]
pub struct Wide(Arc<Slot>);

impl Drop for Wide {
    fn drop(&mut self) {
        self.0.narrow();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Share {
            all,
            connections,
            places,
            counters,
            ..
        } = &*self.share;
        let own = *self.places.get_mut();
        Counters::subtract(&counters.open, 1);
        connections.fetch_sub(1, Ordering::Relaxed);
        places.fetch_sub(own, Ordering::Relaxed);
        all.taken.fetch_sub(own, Ordering::Relaxed);
        // Shares grow with what is free, so it may be anybody's turn.
        all.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn shares(places: usize, per_workload: usize) -> [Arc<Share>; 3] {
        let tuning = Tuning {
            connections: Some(places),
            connections_per_workload: per_workload,
            ..Tuning::default()
        };
        let all = Arc::new(Admission::new(&tuning));
        [(); 3].map(|()| Share::new(&all, &tuning, &Arc::default()))
    }

    fn fill(share: &Arc<Share>) -> Vec<Slot> {
        let next = || share.has_room().then(|| share.enter());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_workload_leaves_room_for_others_and_they_for_more() {
        let [first, second, third] = shares(9_000, usize::MAX);
        let many = fill(&first);
        assert_eq!(many.len(), 3_000);
        let fewer = fill(&second);
        assert_eq!(fewer.len(), 1_000);
        let few = fill(&third);
        assert!(few.len() > 300, "{}", few.len());
        // What one gives back is there for the one with the least.
        drop(many);
        assert!(fill(&third).len() > 1_000);
    }

    #[test]
    fn no_workload_has_more_than_it_may() {
        let [first, ..] = shares(9_000, 10);
        assert_eq!(fill(&first).len(), 10);
    }

    #[test]
    fn what_is_intercepted_takes_one_place_only() {
        let [first, second, _] = shares(3, usize::MAX);
        let slot = first.enter();
        assert!(!first.has_room() && second.has_room());
        slot.narrow();
        slot.narrow();
        assert_eq!(first.all.free(), 2);
        assert!(first.has_room());
        drop(slot);
        assert_eq!(first.all.free(), 3);
        assert_eq!(Counters::read(&first.counters.open), 0);
    }

    #[test]
    fn a_tunnel_takes_both_places_again_if_there_is_one() {
        let [first, second, _] = shares(3, usize::MAX);
        let slot = Arc::new(first.enter());
        slot.narrow();
        let wide = slot.widen().expect("two are free");
        assert_eq!(first.all.free(), 1);
        drop(wide);
        assert_eq!(first.all.free(), 2);
        let _other = second.enter();
        assert!(slot.widen().is_none());
        assert_eq!(first.all.free(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_told_of_every_place() {
        let [first, second, _] = shares(4, usize::MAX);
        let slots = [first.enter(), second.enter()];
        let mut waits = pin!(first.room("default/pod"));
        let pending = poll_fn(|context| waits.as_mut().poll(context).is_pending().into()).await;
        assert!(pending);
        assert_eq!(Counters::read(&first.counters.held_up), 1);
        drop(slots);
        waits.await;
    }

    #[test]
    fn some_descriptors_are_kept_for_all_else() {
        assert_eq!(places_of(20_000), 16_000);
        assert_eq!(places_of(1_024), 768);
        assert_eq!(places_of(100), 50);
        assert!(places_of(usize::MAX) < limits::OPEN_FILES);
    }
}
