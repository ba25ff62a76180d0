//! The task that owns the state.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};

use super::change::Change;
use super::failure::{Failure, Told};
use super::queue::Job;
use super::recheck::Recheck;
use super::state::{Answer, Failed, PATIENCE, Scope, State};
use super::{calls, watches};
use crate::bucket::Bucket;
use crate::grants::Review;
use crate::health::Pings;
use crate::model::Key;
use crate::nodes::Nodes;
use crate::snapshot::NoRandomness;

/// Changes that wait for the task; watches wait when there are more.
const CHANGES: usize = 1024;
/// Changes and answers that are taken over before nodes are told. Whatever comes at the same
/// time is told once.
const BATCH: usize = 4096;
/// Requests under way at the same time.
const REQUESTS: usize = 16;
/// API servers learn of roles from each other; after this time all of them have.
const RECHECK: Duration = Duration::from_secs(5);
/// How long a status that was written and undone by somebody else is left alone.
const REWRITE: Duration = Duration::from_secs(5);
/// How long an answer holds that nothing calls into question.
const REFRESH: Duration = Duration::from_mins(10);

/// How much the API server is asked. Watches and their lists are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per second in the long run.
    pub qps: NonZeroU32,
    /// Requests at once.
    pub burst: NonZeroU32,
}

/// Why the cluster is not watched any more.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// Fingerprints of credentials need a secret of their own.
    #[error("cannot start watching the cluster: {0}")]
    NoRandomness(#[from] NoRandomness),
    /// A watch goes on for ever; this is a fault of the controller.
    #[error("a watch ended; restart the controller, and report this")]
    WatchEnded(#[source] Option<JoinError>),
}

/// Watches the cluster and tells `nodes`, until it is dropped.
///
/// Failures of the API server are no errors: they are logged, and whatever failed is tried
/// again. `pings` are answered between two turns.
pub async fn run(
    client: Client,
    nodes: Arc<Nodes>,
    limits: Limits,
    pings: Pings,
) -> Result<(), ClusterError> {
    let (sender, changes) = mpsc::channel(CHANGES);
    let (named_are_known, known) = oneshot::channel();
    let told = Told::default();
    let mut watches = JoinSet::new();
    watches::start(&mut watches, &client, &sender, &told, known);
    let event_loop = EventLoop {
        client,
        nodes,
        state: State::new()?,
        bucket: Bucket::new(limits.qps, limits.burst, Instant::now()),
        requests: JoinSet::new(),
        named_are_known: Some(named_are_known),
        recheck: Recheck::after(RECHECK),
        told,
    };
    event_loop.run(watches, changes, pings).await
}

struct EventLoop {
    client: Client,
    nodes: Arc<Nodes>,
    state: State,
    bucket: Bucket,
    requests: JoinSet<Done>,
    /// Taken once the watch of the Connectors may begin.
    named_are_known: Option<oneshot::Sender<()>>,
    /// Whose roles changed.
    recheck: Recheck<Scope>,
    told: Told,
}

/// What a task has done.
enum Done {
    Answered(Answer),
    /// It waited.
    Retry(Job),
    /// It waited after a status was written.
    Rested(Key),
}

impl EventLoop {
    async fn run(
        mut self,
        mut watches: JoinSet<()>,
        mut changes: mpsc::Receiver<Change>,
        mut pings: Pings,
    ) -> Result<(), ClusterError> {
        let mut refresh = tokio::time::interval_at(Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let token_at = self.send_requests();
            let recheck_at = self.recheck.at();
            tokio::select! {
                Some(change) = changes.recv() => self.change(change),
                Some(done) = self.requests.join_next() => self.done(done),
                Some(ended) = watches.join_next() => {
                    return Err(ClusterError::WatchEnded(ended.err()));
                }
                () = until(token_at) => {}
                () = until(recheck_at) => {
                    let scopes = self.recheck.take(Instant::now());
                    self.state.recheck(scopes);
                }
                _ = refresh.tick() => self.state.refresh(&self.nodes, &now()),
                // They may stop, when nobody is interested any more.
                Some(ping) = pings.next() => ping.answer(),
            }
            for _ in 0..BATCH {
                if let Ok(change) = changes.try_recv() {
                    self.change(change);
                } else if let Some(done) = self.requests.try_join_next() {
                    self.done(done);
                } else {
                    break;
                }
            }
            self.follow();
        }
    }

    fn change(&mut self, change: Change) {
        self.state.change(change, &now());
    }

    fn done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Answered(answer)) => {
                self.tell_success(&answer);
                if let Some(failed) = self.state.answer(answer, &now()) {
                    self.tell_failure(&failed);
                    let Failed { job, after, .. } = failed;
                    if let Some(after) = after {
                        self.later(after, Done::Retry(job));
                    }
                }
                for key in self.state.take_written() {
                    self.later(REWRITE, Done::Rested(key));
                }
            }
            Ok(Done::Retry(job)) => self.state.retry(job),
            Ok(Done::Rested(key)) => self.state.rested(key),
            // The state waits for an answer that will not come.
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn later(&mut self, after: Duration, done: Done) {
        self.requests.spawn(async move {
            sleep(after).await;
            done
        });
    }

    /// Does what follows from what was taken over.
    fn follow(&mut self) {
        if self.state.knows_what_connectors_name()
            && let Some(named_are_known) = self.named_are_known.take()
        {
            // Nobody listens only if the watch has ended, which is noticed elsewhere.
            named_are_known.send(()).ok();
        }
        let changed = self.state.take_changed_roles();
        self.recheck.note(changed, Instant::now());
        let was_complete = self.nodes.is_complete();
        self.nodes.set_namespaces(self.state.namespaces());
        self.state.publish(&self.nodes);
        if !was_complete && self.nodes.is_complete() {
            tracing::info!("the cluster is known; nodes are told");
        }
    }

    /// Starts what may be started. Returns when there is a token for the next request, if
    /// that is what it waits for.
    fn send_requests(&mut self) -> Option<Instant> {
        while self.state.under_way() < REQUESTS && self.state.has_calls() {
            if let Err(token_at) = self.bucket.take(Instant::now()) {
                return Some(token_at);
            }
            let Some(call) = self.state.next_call() else {
                break;
            };
            let answer = calls::send(self.client.clone(), call);
            self.requests
                .spawn(async move { Done::Answered(answer.await) });
        }
        None
    }

    fn tell_success(&self, answer: &Answer) {
        let doing = match answer {
            Answer::Fetched(_, Ok(_)) => READING,
            Answer::Asked(_, Ok(_)) => ASKING,
            Answer::Written(_, Ok(_)) => WRITING,
            _ => return,
        };
        if self.told.works(doing) {
            tracing::info!("{doing} works again");
        }
    }

    /// Nodes are told without this answer: what is refused to whom meanwhile.
    fn tell_undecided(&self, review: &Review, failure: &Failure) {
        let mut pods = self.state.waiting_for(review);
        if pods.is_empty() {
            return;
        }
        let more = pods.len().saturating_sub(TOLD);
        pods.truncate(TOLD);
        if more > 0 {
            pods.push(format!("{more} more"));
        }
        let namespace = &review.namespace;
        let connectors = match &review.connector {
            Some(name) => format!("Connector {namespace}/{name}"),
            None => format!("the Connectors of namespace {namespace}"),
        };
        tracing::warn!(
            "it is not known whether {} may use {connectors}: connections there are refused, unless \
             they fail open, until the API server answers the access review about service account \
             {}, which it is asked again and again: {failure}",
            pods.join(", "),
            review.service_account
        );
    }

    fn tell_failure(&self, failed: &Failed) {
        let (doing, object) = match &failed.job {
            Job::Fetch(key) => (READING, format!("Secret {}/{}", key.namespace, key.name)),
            Job::Ask(review) => {
                let account = format!("{}/{}", review.namespace, review.service_account);
                (ASKING, format!("service account {account}"))
            }
            Job::Write(key) => (WRITING, format!("Connector {}/{}", key.namespace, key.name)),
        };
        let failure = &failed.failure;
        if *failure == Failure::Conflict {
            // The watch shows the object as it is now, and its status is worked out anew.
            tracing::debug!("{doing}: {object}: {failure}");
            return;
        }
        if failed.after.is_none() {
            tracing::warn!("{doing} fails until the object changes: {object}: {failure}");
            return;
        }
        // What many objects fail of is told once, what one object fails of for each.
        if let Job::Ask(review) = &failed.job
            && failed.failures == PATIENCE
        {
            self.tell_undecided(review, failure);
        }
        let is_news = if failure.is_general() {
            self.told.is_news(doing, failure)
        } else {
            failed.failures == 1
        };
        if is_news {
            tracing::warn!("{doing} fails, trying again: {object}: {failure}");
        } else {
            tracing::debug!("{doing} fails again: {object}: {failure}");
        }
    }
}

/// Pods that a message names before it says how many more there are.
const TOLD: usize = 20;

const READING: &str = "reading Secrets";
const ASKING: &str = "asking who may use Connectors";
const WRITING: &str = "writing statuses";

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The time, as objects have it.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
