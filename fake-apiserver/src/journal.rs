//! The log of requests, for assertions such as "nothing is written".

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// How many requests are kept.
const CAPACITY: usize = 100_000;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// HTTP method.
    pub method: String,
    /// Path without its query.
    pub path: String,
    /// Query, or empty.
    pub query: String,
    /// Who sent it.
    pub user: String,
    /// `get`, `list`, `watch`, …
    pub verb: String,
    /// Plural name of the resource; empty for other paths.
    pub resource: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// What the client says it is.
    pub user_agent: String,
}

impl Entry {
    /// Whether it changes objects; a review does not.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !self.resource.ends_with("reviews")
            && !self.query.contains("dryRun=All")
    }
}

/// All requests, oldest first.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<VecDeque<Entry>>,
}

impl Journal {
    /// Notes a request.
    pub fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == CAPACITY {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// What was noted.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
