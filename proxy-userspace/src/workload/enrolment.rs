//! A workload as its open connections know it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
    task::Poll,
};

use tokio::{sync::watch, task::coop::unconstrained};

use super::{Egress, PolicyId, Workload};

/// A workload that is being served. All its connections share it, so what changes here
/// reaches them.
#[derive(Debug)]
pub struct Enrolment {
    /// Id of the workload's own cgroup.
    pub cgroup_id: u64,
    /// How messages call it.
    pub name: String,
    /// Where its connections leave from.
    pub egress: Egress,
    policy: AtomicU32,
    phase: watch::Sender<Phase>,
    /// The same, for those who ask often.
    phase_now: AtomicU8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    Serving,
    WindingDown,
    Ended,
}

impl Enrolment {
    /// Starts serving a workload whose connections leave through `egress`.
    pub fn new(workload: Workload, egress: Egress) -> Self {
        Self {
            cgroup_id: workload.cgroup_id,
            name: workload.name,
            egress,
            policy: AtomicU32::new(workload.policy.0),
            phase: watch::Sender::new(Phase::Serving),
            phase_now: AtomicU8::new(Phase::Serving as u8),
        }
    }

    /// What it is granted, as of now.
    pub fn policy(&self) -> PolicyId {
        PolicyId(self.policy.load(Ordering::Relaxed))
    }

    /// Grants something else to connections and requests to come.
    pub fn set_policy(&self, policy: PolicyId) {
        self.policy.store(policy.0, Ordering::Relaxed);
    }

    /// Asks open connections to end as soon as the request that they are at is answered.
    pub fn wind_down(&self) {
        self.advance(Phase::WindingDown);
    }

    /// Whether [`wind_down`](Self::wind_down) was called.
    pub fn is_winding_down(&self) -> bool {
        self.has_reached(Phase::WindingDown)
    }

    /// Waits for [`wind_down`](Self::wind_down).
    pub async fn winding_down(&self) {
        self.reached(Phase::WindingDown).await;
    }

    /// Ends open connections where they are; none is kept for it any more.
    pub fn end(&self) {
        self.egress.close();
        self.advance(Phase::Ended);
    }

    /// Waits for [`end`](Self::end).
    pub async fn ended(&self) {
        self.reached(Phase::Ended).await;
    }

    /// Does some work until [`end`](Self::end); `None` if that came first. Belongs into a task
    /// of its own: see [`unless`](Self::unless).
    pub async fn until_ended<T>(&self, work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        self.unless(self.ended(), work).await
    }

    /// Does some work until `farewell` is over, which begins with
    /// [`winding_down`](Self::winding_down); `None` if that came first. Has to be awaited by
    /// one task from beginning to end.
    pub async fn until_farewell<T>(
        &self,
        farewell: impl Future<Output = ()>,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        self.unless(farewell, work).await
    }

    /// Does some work until `end`, which waits for a later phase first.
    ///
    /// Work is looked at for each request, and the wait costs a lock each time. Once is enough while
    /// the workload is served as ever: a task stays registered until it is woken up for the first
    /// change. Between two changes it has to ask each time, since it may have been looked at after
    /// the one and before it was woken up for that.
    async fn unless<T>(
        &self,
        end: impl Future<Output = ()>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        // Must not be put off, or the task would not be registered.
        let mut end = pin!(unconstrained(end));
        let mut registered = false;
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            let now = self.phase_now.load(Ordering::Acquire);
            if registered && now == Phase::Serving as u8 {
                return Poll::Pending;
            }
            registered = true;
            end.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    fn has_reached(&self, phase: Phase) -> bool {
        self.phase_now.load(Ordering::Acquire) >= phase as u8
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            self.phase_now.store(*phase as u8, Ordering::Release);
            later
        });
    }

    async fn reached(&self, wanted: Phase) {
        // The sender is `self`, so the wait cannot fail.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase >= wanted)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Arc,
        task::{Context, Wake, Waker},
    };

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn take(&self) -> bool {
            self.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    fn enrolment() -> Enrolment {
        let workload = Workload {
            cgroup_id: 1,
            name: "team/pod".into(),
            policy: PolicyId(1),
        };
        Enrolment::new(workload, Egress::own())
    }

    #[test]
    fn work_is_ended_after_a_phase_that_it_does_not_wait_for() {
        let enrolment = enrolment();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut work = pin!(pending::<()>());
        let mut served = pin!(enrolment.until_ended(work.as_mut()));
        assert!(served.as_mut().poll(&mut context).is_pending());
        enrolment.wind_down();
        // As often as there are requests, and once because of the phase.
        for _ in 0..3 {
            assert!(served.as_mut().poll(&mut context).is_pending());
        }
        woken.take();
        enrolment.end();
        assert!(woken.take(), "nobody looks at it again");
        assert_eq!(served.as_mut().poll(&mut context), Poll::Ready(None));
    }

    #[test]
    fn what_is_done_comes_before_the_end() {
        let enrolment = enrolment();
        enrolment.end();
        let mut context = Context::from_waker(Waker::noop());
        let mut work = pin!(ready(7));
        let mut served = pin!(enrolment.until_ended(work.as_mut()));
        assert_eq!(served.as_mut().poll(&mut context), Poll::Ready(Some(7)));
    }
}
