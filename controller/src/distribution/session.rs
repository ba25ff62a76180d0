//! One stream: an agent is told its node's state and says what came of it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::distribution::agent_message::Kind;
use proxy_common::distribution::{Acknowledge, AgentMessage, Hello, NodeUpdate};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::identity::{Authenticator, Revoked};
use super::limits;
use super::newest::{Lost, Place};
use super::service::Caller;
use crate::nodes::{Known, Nodes};
use crate::pause;
use crate::snapshot::Feed;

/// A stream that was authenticated.
pub(super) struct Session {
    pub(super) caller: Caller,
    pub(super) authenticator: Arc<Authenticator>,
    /// How often the caller's token is reviewed again.
    pub(super) review_again: Duration,
    pub(super) _place: Place<String>,
    /// Newer streams of the node have taken its place.
    pub(super) lost: Lost,
    pub(super) nodes: Arc<Nodes>,
    pub(super) incoming: Streaming<AgentMessage>,
    pub(super) outgoing: mpsc::Sender<Result<NodeUpdate, Status>>,
    pub(super) stopped: watch::Receiver<()>,
    /// How long the stream lasts, about.
    pub(super) age: Duration,
}

/// Why a stream ended.
enum End {
    /// The agent closed it, or is gone.
    Gone,
    /// The connection broke.
    Broken(Status),
    /// The agent did not keep to the protocol.
    Refused(Status),
    /// The token is over, or may be.
    Old,
    /// The token was taken away before its end.
    Revoked,
    /// There are newer streams of the same node.
    Replaced,
    /// The controller stops.
    Stopping,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("it ended the stream"),
            Self::Broken(status) => write!(formatter, "the stream broke: {}", status.message()),
            Self::Refused(status) => write!(formatter, "refused: {}", status.message()),
            Self::Old => formatter.write_str("the stream is old; it comes back with a new token"),
            Self::Revoked => formatter.write_str("its token is not valid any more"),
            Self::Replaced => formatter.write_str("newer streams of the node took its place"),
            Self::Stopping => formatter.write_str("the controller stops"),
        }
    }
}

impl End {
    /// What the agent is told; `None` if there is nobody to be told.
    fn status(self) -> Option<Status> {
        match self {
            Self::Gone | Self::Broken(_) => None,
            Self::Refused(status) => Some(status),
            Self::Old => Some(Status::unavailable(
                "the stream is old: subscribe again with the present token",
            )),
            Self::Revoked => Some(Status::unauthenticated(
                "the API server does not accept the token of this stream any more",
            )),
            Self::Replaced => Some(Status::unavailable(
                "newer streams of this node have taken the place of this one",
            )),
            Self::Stopping => Some(Status::unavailable(
                "this replica of the controller stops: subscribe again",
            )),
        }
    }
}

/// An update that was sent and not acknowledged.
struct Outstanding {
    version: u64,
    until: Instant,
}

/// What happened.
enum Event {
    Changed,
    /// An update was sent, of this version, if there was anything to be told.
    Room(Option<u64>),
    Said(AgentMessage),
    Unacknowledged,
    Ended(End),
}

impl Session {
    /// To the end of the stream.
    pub(super) async fn run(mut self) {
        let end = match self.hello().await {
            Ok(()) => self.feed().await,
            Err(end) => end,
        };
        let (node, peer) = (&self.caller.node, self.caller.peer.address);
        info!(node, %peer, "agent disconnected: {end}");
        if let Some(status) = end.status() {
            // An agent that takes nothing any more does not take this either.
            drop(timeout(limits::DRAIN, self.outgoing.send(Err(status))).await);
        }
    }

    async fn hello(&mut self) -> Result<(), End> {
        let refused = |why| End::Refused(Status::invalid_argument(why));
        let message = tokio::select! {
            message = timeout(limits::HELLO, self.incoming.message()) => message,
            _ = self.stopped.changed() => return Err(End::Stopping),
        };
        let message = message.map_err(|_| {
            End::Refused(Status::deadline_exceeded(
                "the stream has to begin with Hello",
            ))
        })?;
        let kind = match message.map_err(End::Broken)? {
            Some(message) => message.kind,
            None => return Err(refused("the stream ended before it began with Hello")),
        };
        let Some(Kind::Hello(Hello {
            node,
            agent_version,
        })) = kind
        else {
            return Err(refused("the stream has to begin with Hello"));
        };
        self.caller.check(&node).map_err(End::Refused)?;
        let (peer, agent_version) = (self.caller.peer.address, shown(&agent_version));
        info!(node, %peer, agent_version, "agent connected");
        Ok(())
    }

    /// One update at a time: the next is sent when this one is acknowledged, or has waited
    /// long enough. It is made of the newest state, and leaves out those in between.
    async fn feed(&mut self) -> End {
        let mut states = self.nodes.subscribe(&self.caller.node);
        states.mark_changed();
        let mut feed = Feed::default();
        let mut sent = 0;
        let mut outstanding: Option<Outstanding> = None;
        let mut changed = false;
        let old = Instant::now() + pause::spread(self.age);
        let (node, token) = (&*self.caller.node, &*self.caller.token);
        let revoked = self
            .authenticator
            .until_revoked(token, node, self.review_again);
        let mut revoked = pin!(revoked);
        loop {
            let until = outstanding.as_ref().map_or(old, |it| it.until);
            let event = tokio::select! {
                result = states.changed(), if !changed => match result {
                    Ok(()) => Event::Changed,
                    // The state is published by whoever works it out anew.
                    Err(_) => Event::Ended(End::Stopping),
                },
                room = self.outgoing.reserve(), if changed && outstanding.is_none() => match room {
                    Ok(room) => {
                        let update = newest(&mut feed, &mut states);
                        let version = update.as_ref().map(|update| update.version);
                        if let Some(update) = update {
                            room.send(Ok(update));
                        }
                        Event::Room(version)
                    }
                    Err(_) => Event::Ended(End::Gone),
                },
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => Event::Said(message),
                    Ok(None) => Event::Ended(End::Gone),
                    Err(status) => Event::Ended(End::Broken(status)),
                },
                () = self.outgoing.closed() => Event::Ended(End::Gone),
                () = sleep_until(until), if outstanding.is_some() => Event::Unacknowledged,
                () = sleep_until(old) => Event::Ended(End::Old),
                revoked = &mut revoked => Event::Ended(match revoked {
                    Revoked::Over => End::Old,
                    Revoked::Early => End::Revoked,
                }),
                _ = &mut self.lost => Event::Ended(End::Replaced),
                _ = self.stopped.changed() => Event::Ended(End::Stopping),
            };
            match event {
                Event::Changed => changed = true,
                Event::Room(version) => {
                    changed = false;
                    if let Some(version) = version {
                        sent = version;
                        let until = Instant::now() + limits::ACKNOWLEDGE;
                        outstanding = Some(Outstanding { version, until });
                        debug!(node, version, "sent an update");
                    }
                }
                Event::Said(message) => {
                    let acknowledged = match acknowledged(node, message, sent) {
                        Ok(version) => version,
                        Err(status) => return End::Refused(status),
                    };
                    if outstanding
                        .as_ref()
                        .is_some_and(|it| it.version <= acknowledged)
                    {
                        outstanding = None;
                    }
                }
                Event::Unacknowledged => {
                    warn!(
                        node,
                        version = sent,
                        "agent does not acknowledge; it is sent on"
                    );
                    outstanding = None;
                }
                Event::Ended(end) => return end,
            }
        }
    }
}

/// The version that the agent of a node is done with.
fn acknowledged(node: &str, message: AgentMessage, sent: u64) -> Result<u64, Status> {
    let Some(Kind::Acknowledge(Acknowledge { version, error })) = message.kind else {
        return Err(Status::invalid_argument(
            "after Hello there have to be acknowledgements only",
        ));
    };
    if version > sent {
        return Err(Status::invalid_argument(format!(
            "version {version} is acknowledged and was never sent"
        )));
    }
    if error.is_empty() {
        debug!(node, version, "agent has put a version in force");
    } else {
        let error = shown(&error);
        warn!(node, version, error, "agent cannot put a version in force");
    }
    Ok(version)
}

/// The update to the newest state; `None` if the agent has it, or it is not known yet.
fn newest(feed: &mut Feed, states: &mut watch::Receiver<Known>) -> Option<NodeUpdate> {
    let state = states.borrow_and_update().clone();
    feed.next(&state?)
}

/// What an agent says, as much of it as is logged.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(limits::LOGGED).collect()
}
