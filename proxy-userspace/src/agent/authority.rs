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

/// Why the node has no authority.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An authority, and the hosts that it may vouch for.
pub(super) struct Signed {
    pub(super) authority: Authority,
    pub(super) hosts: BTreeSet<String>,
}

/// Gets the authority signed, one request at a time.
pub(super) struct Signer {
    controller: Arc<Controller>,
    hosts: BTreeSet<String>,
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
            hosts: BTreeSet::new(),
            asked: BTreeSet::new(),
            signed: None,
            prime: SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH,
            running: None,
        }
    }

    /// Whether the authority in force may vouch for all of these hosts.
    pub(super) fn covers(&self, hosts: &BTreeSet<String>) -> bool {
        self.hosts().is_some_and(|signed| hosts.is_subset(signed))
    }

    /// Whether the last request was for the sake of these hosts.
    pub(super) fn was_asked_for(&self, hosts: &BTreeSet<String>) -> bool {
        self.asked == *hosts
    }

    /// The hosts that the authority in force may vouch for; `None` when there is none.
    pub(super) fn hosts(&self) -> Option<&BTreeSet<String>> {
        self.signed.map(|_| &self.hosts)
    }

    /// Has the authority signed unless the one in force is good for these hosts. The controller
    /// names the hosts that it signs for; while it does not know all of these, it is not asked
    /// about the same ones all the time.
    pub(super) fn want(&mut self, hosts: &BTreeSet<String>) {
        let good = self.signed.is_some_and(|at| {
            let age = at.elapsed();
            let asked_just_now = age < limits::SIGN_AGAIN && *hosts == self.asked;
            // A clock that is wrong by days finds fault with every authority.
            let timely = age < limits::SIGN_UNTIMELY || self.prime.contains(&SystemTime::now());
            asked_just_now || timely && age < limits::AUTHORITY_AGE && hosts.is_subset(&self.hosts)
        });
        if !good && self.running.is_none() {
            self.asked.clone_from(hosts);
            let controller = Arc::clone(&self.controller);
            self.running = Some(tokio::spawn(sign(controller)));
        }
    }

    /// The next authority; never, as long as none is wanted. Dropping the future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Signed {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let done = running.await;
        self.running = None;
        match done {
            Ok(signed) => {
                self.hosts.clone_from(&signed.hosts);
                self.signed = Some(Instant::now());
                self.prime = signed.authority.prime();
                signed
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
        hosts: response.hosts.into_iter().collect(),
    })
}
