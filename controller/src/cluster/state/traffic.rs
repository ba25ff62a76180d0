//! The requests that are sent, and what follows from their answers.

use std::time::Duration;

use proxy_common::api::ConnectorStatus;

use super::super::failure::Failure;
use super::super::queue::{Job, Urgency};
use super::State;
use crate::grants::Review;
use crate::model::{HeldSecret, Key};

/// A request to the API server.
#[derive(Debug)]
pub(in super::super) enum Call {
    /// Read a Secret.
    Fetch(Key),
    /// Ask a review.
    Ask(Review),
    /// Write the status of the Connector with this uid.
    Write(Key, String, ConnectorStatus),
}

/// What came of a request.
#[derive(Debug)]
pub(in super::super) enum Answer {
    /// A Secret; `None` if there is none.
    Fetched(Key, Result<Option<HeldSecret>, Failure>),
    /// Of a review.
    Asked(Review, Result<bool, Failure>),
    /// Of a status.
    Written(Key, Result<(), Failure>),
}

/// A job to do again later.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Retry {
    pub(in super::super) job: Job,
    pub(in super::super) after: Duration,
    /// How often it failed, and why.
    pub(in super::super) failures: u32,
    pub(in super::super) failure: Failure,
}

impl State {
    /// The next request to send; it is under way until its [`Answer`].
    pub(in super::super) fn next_call(&mut self) -> Option<Call> {
        if !self.is_filled() {
            return None;
        }
        while let Some(job) = self.queue.pop() {
            let call = match &job {
                Job::Fetch(key) => self.fetch(key),
                Job::Ask(review) => Some(Call::Ask(review.clone())),
                Job::Write(key) => self.writes.get_mut(key).map(|write| {
                    write.sent = true;
                    Call::Write(key.clone(), write.uid.clone(), write.status.clone())
                }),
            };
            if call.is_some() {
                return call;
            }
            // It is not needed any more.
            self.queue.finish(&job);
        }
        None
    }

    fn fetch(&mut self, key: &Key) -> Option<Call> {
        let version = self.secrets.get(key)?;
        let held = self.model.secret_version(key);
        let is_held = held.is_some_and(|it| version.is(it.uid, it.resource_version));
        if is_held || !self.model.wants_secret(key) {
            return None;
        }
        self.fetching.insert(key.clone(), version.clone());
        Some(Call::Fetch(key.clone()))
    }

    /// Whether there may be a next request.
    pub(in super::super) fn has_calls(&self) -> bool {
        self.is_filled() && !self.queue.is_empty()
    }

    /// How many requests are under way.
    pub(in super::super) fn under_way(&self) -> usize {
        self.queue.running()
    }

    /// Takes over what came of a request.
    pub(in super::super) fn answer(&mut self, answer: Answer, now: &str) -> Option<Retry> {
        match answer {
            Answer::Fetched(key, Ok(secret)) => {
                self.denied.remove(&key);
                self.queue.finish(&Job::Fetch(key.clone()));
                self.fetched(key, secret, now);
                None
            }
            Answer::Fetched(key, Err(failure)) => {
                self.fetching.remove(&key);
                let wanted = self.model.wants_secret(&key) && self.secrets.get(&key).is_some();
                if wanted && matches!(failure, Failure::Forbidden(_) | Failure::NotFound) {
                    self.denied.insert(key.clone());
                } else {
                    self.denied.remove(&key);
                }
                self.failed(Job::Fetch(key), Urgency::Urgent, failure, wanted)
            }
            Answer::Asked(review, Ok(allowed)) => {
                self.queue.finish(&Job::Ask(review.clone()));
                let effects = self.model.answer(review, allowed);
                self.follow(effects);
                None
            }
            Answer::Asked(review, Err(failure)) => {
                let wanted = self.model.needs_review(&review);
                let urgency = if self.model.has_answer(&review) {
                    Urgency::Again
                } else {
                    Urgency::Urgent
                };
                self.failed(Job::Ask(review), urgency, failure, wanted)
            }
            Answer::Written(key, Ok(())) => {
                self.queue.finish(&Job::Write(key.clone()));
                if self.writes.get(&key).is_some_and(|write| write.sent) {
                    self.writes.remove(&key);
                }
                None
            }
            Answer::Written(key, Err(failure)) => {
                let uid = self.model.connector_uid(&key);
                // An object that is gone needs none, and its successor gets one of its own.
                let wanted = failure != Failure::NotFound
                    && self
                        .writes
                        .get(&key)
                        .is_some_and(|it| Some(&*it.uid) == uid);
                if !wanted {
                    self.writes.remove(&key);
                }
                self.failed(Job::Write(key), Urgency::Normal, failure, wanted)
            }
        }
    }

    fn fetched(&mut self, key: Key, secret: Option<HeldSecret>, now: &str) {
        let asked = self.fetching.remove(&key);
        let Some(secret) = secret else {
            if self.secrets.get(&key) != asked.as_ref() {
                // The watch has shown another one since, which is read next, or that there is
                // none, which was taken over.
                return;
            }
            // The watch will show whether there is another one.
            let effects = self.model.remove_secret(&key, now);
            return self.follow(effects);
        };
        let Some(version) = self.secrets.get(&key) else {
            return;
        };
        let is_newest = version.is(&secret.uid, &secret.resource_version);
        // What the answer shows may be ahead of the watch, which will come to it.
        let changed_meanwhile = !is_newest && asked.as_ref() != Some(version);
        if is_newest || secret.uid == version.uid || !changed_meanwhile {
            let effects = self.model.upsert_secret(key.clone(), secret, now);
            self.follow(effects);
        }
        if changed_meanwhile && self.model.wants_secret(&key) {
            self.queue.push(Job::Fetch(key), Urgency::Urgent);
        }
    }

    fn failed(
        &mut self,
        job: Job,
        urgency: Urgency,
        failure: Failure,
        wanted: bool,
    ) -> Option<Retry> {
        if !wanted {
            self.queue.finish(&job);
            return None;
        }
        let (failures, after) = self.queue.fail(&job, urgency);
        Some(Retry {
            job,
            after,
            failures,
            failure,
        })
    }

    /// The time of a [`Retry`] has come.
    pub(in super::super) fn retry(&mut self, job: Job) {
        self.queue.retry(job);
    }
}
