//! Faults on demand.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::ApiError;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After`.
    TooManyRequests {
        /// Seconds to wait.
        retry_after: u64,
    },
    /// 500.
    InternalError,
    /// 503.
    Unavailable,
    /// 504.
    Timeout,
    /// 409 as if somebody else had been faster.
    Conflict,
}

impl Fault {
    /// The answer.
    pub fn error(self) -> ApiError {
        match self {
            Self::TooManyRequests { retry_after } => ApiError::too_many_requests(retry_after),
            Self::InternalError => ApiError::internal("injected fault"),
            Self::Unavailable => ApiError::new(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
            Self::Timeout => ApiError::new(504, "Timeout", "the server was unable to return a response in the time allotted"),
            Self::Conflict => ApiError::new(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
        }
    }
}

/// Which requests a fault hits; empty fields mean any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matching {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Plural name of the resource.
    pub resource: String,
}

impl Matching {
    /// All requests.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with that verb for that resource.
    pub fn new(verb: &str, resource: &str) -> Self {
        Self { verb: verb.to_owned(), resource: resource.to_owned() }
    }

    pub(crate) fn hits(&self, verb: &str, resource: &str) -> bool {
        (self.verb.is_empty() || self.verb == verb) && (self.resource.is_empty() || self.resource == resource)
    }
}

#[derive(Debug, Default)]
struct Plan {
    next: Vec<(Matching, Fault, usize)>,
    delays: Vec<(Matching, Duration)>,
}

/// The faults that are to come.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Mutex<Plan>,
}

impl Faults {
    /// Lets the next requests fail.
    pub fn fail(&self, matching: Matching, fault: Fault, times: usize) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).next.push((matching, fault, times));
    }

    /// Makes requests wait until they are handled; a zero delay ends it.
    pub fn delay(&self, matching: Matching, delay: Duration) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.delays.retain(|(known, _)| *known != matching);
        if !delay.is_zero() {
            plan.delays.push((matching, delay));
        }
    }

    /// Forgets all faults and delays.
    pub fn clear(&self) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Plan::default();
    }

    /// What is to happen with a request.
    pub fn of(&self, verb: &str, resource: &str) -> (Duration, Option<Fault>) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = plan.delays.iter().filter(|(matching, _)| matching.hits(verb, resource)).map(|(_, delay)| *delay).sum();
        let hit = plan.next.iter_mut().find(|(matching, _, left)| *left > 0 && matching.hits(verb, resource));
        let fault = hit.map(|(_, fault, left)| {
            *left -= 1;
            *fault
        });
        plan.next.retain(|(_, _, left)| *left > 0);
        (delay, fault)
    }
}
