//! The requests that are sent, and what follows from their answers.

use std::time::Duration;

use proxy_common::api::ConnectorStatus;

use super::super::failure::Failure;
use super::super::queue::{Job, Urgency};
use super::State;
use crate::grants::Review;
use crate::kubernetes::ObjectVersion;
use crate::model::{HeldSecret, Key};

/// A request to the API server.
#[derive(Debug)]
pub(in super::super) enum Call {
    /// Read a Secret.
    Fetch(Key),
    /// Ask a review.
    Ask(Review),
    /// Write the status of a Connector that is in this state.
    Write(Key, ObjectVersion, Box<ConnectorStatus>),
}

/// What came of a request.
#[derive(Debug)]
pub(in super::super) enum Answer {
    /// A Secret; `None` if there is none.
    Fetched(Key, Result<Option<HeldSecret>, Failure>),
    /// Of a review.
    Asked(Review, Result<bool, Failure>),
    /// Of a status; the state of the Connector after it.
    Written(Key, Result<ObjectVersion, Failure>),
}

/// A job that failed.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Failed {
    pub(in super::super) job: Job,
    /// When to do it again; `None` if that would not help.
    pub(in super::super) after: Option<Duration>,
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
                    let status = Box::new(write.status.clone());
                    Call::Write(key.clone(), write.version.clone(), status)
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
    pub(in super::super) fn answer(&mut self, answer: Answer, now: &str) -> Option<Failed> {
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
            Answer::Written(key, Ok(version)) => {
                self.queue.finish(&Job::Write(key.clone()));
                self.wrote(key, version);
                None
            }
            Answer::Written(key, Err(failure)) => self.not_written(&key, failure),
        }
    }

    fn wrote(&mut self, key: Key, version: ObjectVersion) {
        if self.writes.get(&key).is_some_and(|write| write.sent)
            && let Some(write) = self.writes.remove(&key)
        {
            self.model.wrote_status(&key, &write.version, version);
            self.recent.insert(key.clone(), write);
            self.written.push(key);
        }
    }

    fn not_written(&mut self, key: &Key, failure: Failure) -> Option<Failed> {
        let job = Job::Write(key.clone());
        let version = self.model.connector_version(key);
        let write = self.writes.get_mut(key);
        // An object that is gone needs none, and its successor gets one of its own.
        let wanted = write.filter(|write| {
            let uid = version.as_ref().map(|it| &it.uid);
            failure != Failure::NotFound && Some(&write.version.uid) == uid
        });
        let Some(write) = wanted else {
            self.writes.remove(key);
            return self.failed(job, Urgency::Normal, failure, false);
        };
        if failure == Failure::Conflict {
            if !write.sent {
                // Another one was worked out meanwhile, which is next.
                self.queue.finish(&job);
                return None;
            }
            write.stale = true;
        }
        if failure.is_of_the_object() {
            // The same again would fail again. It stays known as sent, so that only another
            // state of the object leads to another attempt.
            self.queue.finish(&job);
            return Some(Failed {
                job,
                after: None,
                failures: 1,
                failure,
            });
        }
        self.failed(job, Urgency::Normal, failure, true)
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
    ) -> Option<Failed> {
        if !wanted {
            self.queue.finish(&job);
            return None;
        }
        let (failures, after) = self.queue.fail(&job, urgency);
        Some(Failed {
            job,
            after: Some(after),
            failures,
            failure,
        })
    }

    /// The time of a [`Failed`] job has come.
    pub(in super::super) fn retry(&mut self, job: Job) {
        self.queue.retry(job);
    }
}
