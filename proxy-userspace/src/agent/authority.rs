//! The node's certificate authority: its key is made here, the controller signs it, and it is
//! signed anew when more hosts are granted or when it grows old.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::SystemTime};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::controller::{Controller, ControllerError, delays};
use crate::{
    limits,
    tls::{Authority, AuthorityKey, TlsError},
};

/// Hosts that a message names before it says how many more there are.
const NAMED: usize = 20;

/// Why the node has no authority.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An authority, and what it is good for.
struct Signed {
    authority: Authority,
    scope: Scope,
}

/// What an authority is good for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scope {
    /// The hosts that it may vouch for.
    hosts: BTreeSet<String>,
    /// The hosts that the certificate has no room for.
    left_out: BTreeSet<String>,
}

impl Scope {
    /// Whether another authority would be good for no more of these hosts.
    fn settles(&self, hosts: &BTreeSet<String>) -> bool {
        let mut hosts = hosts.iter();
        hosts.all(|host| self.hosts.contains(host) || self.left_out.contains(host))
    }

    /// Says what has no room, unless the authority before said so.
    fn complain(&self, before: &Self) {
        if self.left_out.is_empty() || self.left_out == before.left_out {
            return;
        }
        let mut names: Vec<_> = self.left_out.iter().take(NAMED).cloned().collect();
        if self.left_out.len() > NAMED {
            names.push(format!("{} more", self.left_out.len() - NAMED));
        }
        tracing::warn!(
            "the pods of this node are granted more hosts than one certificate names: connections \
             to {} are refused, or go direct where their Connector fails open; grant fewer \
             Connectors to the pods of this node, or spread them over more nodes",
            names.join(", ")
        );
    }
}

/// Gets the authority signed, one request at a time.
pub(super) struct Signer {
    controller: Arc<Controller>,
    scope: Scope,
    /// The hosts for whose sake it was last asked for.
    asked: BTreeSet<String>,
    signed: Option<Instant>,
    /// When the one in force needs no successor, by the wall clock.
    prime: Range<SystemTime>,
    running: Option<JoinHandle<Signed>>,
}

impl Signer {
    pub(super) fn new(controller: Arc<Controller>) -> Self {
        Self {
            controller,
            scope: Scope::default(),
            asked: BTreeSet::new(),
            signed: None,
            prime: SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH,
            running: None,
        }
    }

    /// Whether the authority in force is as good for these hosts as one can be.
    pub(super) fn settles(&self, hosts: &BTreeSet<String>) -> bool {
        self.signed.is_some() && self.scope.settles(hosts)
    }

    /// Whether the last request was for the sake of these hosts.
    pub(super) fn was_asked_for(&self, hosts: &BTreeSet<String>) -> bool {
        self.asked == *hosts
    }

    /// When the authority in force was signed; `None` when there is none.
    pub(super) fn signed(&self) -> Option<Instant> {
        self.signed
    }

    /// The hosts that the authority in force may vouch for; `None` when there is none.
    pub(super) fn hosts(&self) -> Option<&BTreeSet<String>> {
        self.signed.map(|_| &self.scope.hosts)
    }

    /// Has the authority signed unless the one in force is good for these hosts. The controller
    /// names the hosts that it signs for, and those that have no room: about these it is not asked
    /// again. While it does not know some of them, it is not asked about the same ones all the time.
    pub(super) fn want(&mut self, hosts: &BTreeSet<String>) {
        let good = self.signed.is_some_and(|at| {
            let age = at.elapsed();
            let asked_just_now = age < limits::SIGN_AGAIN && *hosts == self.asked;
            // A clock that is wrong by days finds fault with every authority.
            let timely = age < limits::SIGN_UNTIMELY || self.prime.contains(&SystemTime::now());
            asked_just_now || timely && age < limits::AUTHORITY_AGE && self.scope.settles(hosts)
        });
        if !good && self.running.is_none() {
            self.asked.clone_from(hosts);
            let controller = Arc::clone(&self.controller);
            self.running = Some(tokio::spawn(sign(controller)));
        }
    }

    /// The next authority; never, as long as none is wanted. Dropping the future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Authority {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let done = running.await;
        self.running = None;
        match done {
            Ok(signed) => {
                let Signed { authority, scope } = signed;
                scope.complain(&self.scope);
                self.scope = scope;
                self.signed = Some(Instant::now());
                self.prime = authority.prime();
                authority
            }
            // It panicked, or the runtime ends; whoever still wants it asks again.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// Asks until there is an answer. What the certificate is good for is the controller's to
/// decide, so the question stays the same.
async fn sign(controller: Arc<Controller>) -> Signed {
    let mut delays = delays();
    let mut last_reason = String::new();
    loop {
        match sign_once(&controller).await {
            Ok(signed) => return signed,
            // The stream comes first, and says itself why it does not come.
            Err(SignError::Controller(ControllerError::Away(_))) => {}
            Err(error) => {
                let reason = error.to_string();
                if reason != last_reason {
                    tracing::warn!("this node's certificate authority is not signed: {reason}");
                }
                last_reason = reason;
            }
        }
        sleep(delays.next().unwrap_or(limits::RECONNECT)).await;
    }
}

async fn sign_once(controller: &Controller) -> Result<Signed, SignError> {
    let key = AuthorityKey::generate()?;
    let response = controller.sign(key.request()?).await?;
    Ok(Signed {
        authority: key.certified(response.certificate)?,
        scope: Scope {
            hosts: response.hosts.into_iter().collect(),
            left_out: response.left_out.into_iter().collect(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn hosts_without_room_are_not_asked_about_again_and_new_ones_are() {
        let scope = Scope {
            hosts: hosts(&["a.example", "b.example"]),
            left_out: hosts(&["z.example"]),
        };
        assert!(scope.settles(&hosts(&["a.example", "z.example"])));
        assert!(!scope.settles(&hosts(&["a.example", "new.example"])));
        assert!(!Scope::default().settles(&hosts(&["a.example"])));
    }
}
