//! One value that several requests wait for and one of them obtains.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::error::Cause;

/// Where the time comes from.
pub(super) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What a value is worth at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// To be used.
    Fresh,
    /// To be replaced, and to be used as long as that has not succeeded.
    Stale,
    /// Not to be used.
    Expired,
}

/// A value that ages.
pub(super) trait Aging {
    /// Its age at `now`.
    fn age(&self, now: Instant) -> Age;
}

/// A cached value with single flight.
///
/// Who leads holds `lead` while it obtains the value. Dropping the leader drops the guard, so
/// that the next one in the queue leads: nobody ever waits for a request that is gone.
pub(super) struct Flight<T> {
    lead: tokio::sync::Mutex<()>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// The last failure, and until when it stands for an attempt.
    failure: Option<(Cause, Instant)>,
    failures: u64,
}

/// What the state says at one moment.
enum Look<T> {
    Settled(Result<Arc<T>, Cause>),
    Obtain {
        stale: Option<Arc<T>>,
        failures: u64,
    },
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        let state = State {
            value: None,
            failure: None,
            failures: 0,
        };
        Self {
            lead: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        }
    }
}

impl<T: Aging> Flight<T> {
    /// The value; `obtain` is run when there is no fresh one and nobody else is at it.
    ///
    /// Those who waited for an attempt share its failure instead of repeating it one by one.
    pub(super) async fn get(
        &self,
        clock: &Clock,
        obtain: impl Future<Output = Result<T, Cause>>,
    ) -> Result<Arc<T>, Cause> {
        let (stale, seen) = match self.look(clock()) {
            Look::Settled(result) => return result,
            Look::Obtain { stale, failures } => (stale, failures),
        };
        let _leading = match (self.lead.try_lock(), &stale) {
            (Ok(guard), _) => guard,
            (Err(_), Some(stale)) => return Ok(Arc::clone(stale)),
            (Err(_), None) => self.lead.lock().await,
        };
        match self.look(clock()) {
            Look::Settled(result) => return result,
            Look::Obtain { failures, .. } if failures != seen => {
                if let Some((cause, _)) = &self.state().failure {
                    return stale.ok_or_else(|| cause.clone());
                }
            }
            Look::Obtain { .. } => {}
        }
        match obtain.await {
            Ok(value) => Ok(self.put(value)),
            Err(cause) => {
                let now = clock();
                let mut state = self.state();
                state.failures = state.failures.wrapping_add(1);
                state.failure = Some((cause.clone(), now + cause.hold()));
                let usable = state
                    .value
                    .as_ref()
                    .filter(|value| value.age(now) != Age::Expired);
                usable.cloned().ok_or(cause)
            }
        }
    }

    /// Puts a value in, whatever was there.
    pub(super) fn put(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut state = self.state();
        state.value = Some(Arc::clone(&value));
        state.failure = None;
        value
    }

    /// Drops `value`, unless somebody has replaced it already.
    pub(super) fn forget(&self, value: &Arc<T>) {
        let mut state = self.state();
        state.value.take_if(|current| Arc::ptr_eq(current, value));
    }

    /// The value as it is, without obtaining one.
    pub(super) fn peek(&self) -> Option<Arc<T>> {
        self.state().value.clone()
    }

    fn look(&self, now: Instant) -> Look<T> {
        let state = self.state();
        let value = state.value.as_ref().map(|value| (value, value.age(now)));
        let stale = match value {
            Some((value, Age::Fresh)) => return Look::Settled(Ok(Arc::clone(value))),
            Some((value, Age::Stale)) => Some(Arc::clone(value)),
            Some((_, Age::Expired)) | None => None,
        };
        match &state.failure {
            Some((cause, until)) if now < *until => {
                Look::Settled(stale.ok_or_else(|| cause.clone()))
            }
            _ => Look::Obtain {
                stale,
                failures: state.failures,
            },
        }
    }

    /// Nothing panics while it is locked, so a poisoned state is as good as any.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
