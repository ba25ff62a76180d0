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
    /// The hosts for whose sake it was asked for.
    asked: BTreeSet<String>,
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

    /// Whether another authority may have room for one of these hosts that this one has none for,
    /// because some that it was asked for are not wanted any more.
    fn may_have_room(&self, hosts: &BTreeSet<String>) -> bool {
        !self.left_out.is_disjoint(hosts) && !self.asked.is_subset(hosts)
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
            signed: None,
            prime: SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH,
            running: None,
        }
    }

    /// Whether the authority in force is as good for these hosts as one can be.
    pub(super) fn settles(&self, hosts: &BTreeSet<String>) -> bool {
        self.signed.is_some() && self.scope.settles(hosts)
    }

    /// Whether the authority in force was asked for for the sake of these hosts.
    pub(super) fn was_asked_for(&self, hosts: &BTreeSet<String>) -> bool {
        self.scope.asked == *hosts
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
    /// again before others have made some. While it does not know some of them, it is not asked
    /// about the same ones all the time.
    pub(super) fn want(&mut self, hosts: &BTreeSet<String>) {
        let good = self.signed.is_some_and(|at| {
            let age = at.elapsed();
            let asked_just_now = age < limits::SIGN_AGAIN && *hosts == self.scope.asked;
            // A clock that is wrong by days finds fault with every authority.
            let timely = age < limits::SIGN_UNTIMELY || self.prime.contains(&SystemTime::now());
            // Another authority makes clients shake hands in full again.
            let has_room = age >= limits::SIGN_FOR_ROOM && self.scope.may_have_room(hosts);
            let settles = self.scope.settles(hosts) && !has_room;
            asked_just_now || timely && age < limits::AUTHORITY_AGE && settles
        });
        if !good && self.running.is_none() {
            let controller = Arc::clone(&self.controller);
            self.running = Some(tokio::spawn(sign(controller, hosts.clone())));
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
                self.replace(scope, authority.prime());
                authority
            }
            // It panicked, or the runtime ends; whoever still wants it asks again.
            Err(_) => std::future::pending().await,
        }
    }

    /// Another authority is in force.
    fn replace(&mut self, scope: Scope, prime: Range<SystemTime>) {
        scope.complain(&self.scope);
        self.scope = scope;
        self.signed = Some(Instant::now());
        self.prime = prime;
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
async fn sign(controller: Arc<Controller>, asked: BTreeSet<String>) -> Signed {
    let mut delays = delays();
    let mut last_reason = String::new();
    loop {
        match sign_once(&controller).await {
            Ok(mut signed) => {
                signed.scope.asked = asked;
                return signed;
            }
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
    let hosts: BTreeSet<_> = response.hosts.into_iter().collect();
    Ok(Signed {
        authority: key.certified(response.certificate, hosts.clone())?,
        scope: Scope {
            hosts,
            left_out: response.left_out.into_iter().collect(),
            ..Scope::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::Options, datapath::Succession, limits::Tuning};

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn hosts_without_room_are_not_asked_about_again_and_new_ones_are() {
        let scope = Scope {
            asked: hosts(&["a.example", "b.example", "z.example"]),
            hosts: hosts(&["a.example", "b.example"]),
            left_out: hosts(&["z.example"]),
        };
        assert!(scope.settles(&hosts(&["a.example", "z.example"])));
        assert!(!scope.settles(&hosts(&["a.example", "new.example"])));
        assert!(!Scope::default().settles(&hosts(&["a.example"])));
    }

    /// With an authority that was signed a moment ago, for the sake of `asked`.
    fn signer(asked: &[&str], signed: &[&str], left_out: &[&str]) -> Signer {
        let controller = Controller::new(&Options {
            node: "node-1".into(),
            controller: "controller.test:8443".into(),
            api_server: None,
            controller_ca: "/dev/null".into(),
            token_file: "/dev/null".into(),
            cgroup_root: None,
            pins: "/dev/null".into(),
            succession: Succession::Refuse,
            run_directory: "/dev/null".into(),
            tuning: Tuning::default(),
        });
        let mut signer = Signer::new(controller);
        let scope = Scope {
            asked: hosts(asked),
            hosts: hosts(signed),
            left_out: hosts(left_out),
        };
        let now = SystemTime::now();
        signer.replace(scope, now..now + limits::AUTHORITY_AGE);
        signer.signed = Instant::now().checked_sub(2 * limits::SIGN_FOR_ROOM);
        signer
    }

    /// Whether the controller is asked again when these hosts are wanted.
    fn asks(mut signer: Signer, wanted: &[&str]) -> bool {
        signer.want(&hosts(wanted));
        signer.running.is_some()
    }

    #[tokio::test]
    async fn it_is_asked_again_when_a_host_that_was_left_out_may_have_room() {
        let all = ["a.example", "b.example", "z.example"];
        let full = || signer(&all, &["a.example", "b.example"], &["z.example"]);
        assert!(!asks(full(), &all));
        // Somebody else is granted what was wanted, and there is room.
        assert!(asks(full(), &["a.example", "z.example"]));
        // Nobody waits for room.
        assert!(!asks(full(), &["a.example"]));
        // The controller knows more hosts than this version understands, and signs for them.
        let more = signer(&all[..2], &["a.example", "odd.example"], &["b.example"]);
        assert!(!asks(more, &all[..2]));
    }

    #[tokio::test]
    async fn it_is_asked_for_hosts_that_it_was_not_asked_for() {
        let signer = || signer(&["a.example"], &["a.example"], &[]);
        assert!(!asks(signer(), &["a.example"]));
        assert!(asks(signer(), &["a.example", "b.example"]));
    }
}
