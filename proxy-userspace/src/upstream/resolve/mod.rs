//! Addresses of Connector hosts: from `/etc/hosts`, or of the name servers of
//! `/etc/resolv.conf`, for as long as they say.

mod config;
mod error;
mod files;
mod memory;
mod query;
#[cfg(test)]
mod tests;

pub use error::ResolveError;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use crate::limits;
use config::is_localhost;
use files::{Config, Files};
use memory::{Answer, Look, Memory};
use query::Found;

/// Resolves names, and remembers the answers for as long as they are good.
#[derive(Debug)]
pub struct Resolver {
    files: Files,
    /// Of the name servers.
    port: u16,
    /// Whose turn it is to be asked first, if they take turns.
    turn: AtomicUsize,
    memory: Mutex<Memory>,
}

impl Default for Resolver {
    /// With the system's configuration.
    fn default() -> Self {
        Self::with_files("/etc/resolv.conf", "/etc/hosts", 53)
    }
}

/// How long somebody can wait for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Not long, if there is an older answer.
    Dialling,
    /// As long as it takes.
    Background,
}

impl Resolver {
    /// With other files, and name servers on another port.
    pub fn with_files(
        resolv_conf: impl Into<PathBuf>,
        hosts: impl Into<PathBuf>,
        port: u16,
    ) -> Self {
        Self {
            files: Files::new(resolv_conf.into(), hosts.into()),
            port,
            turn: AtomicUsize::new(0),
            memory: Mutex::default(),
        }
    }

    /// Addresses of `host`, which may be one itself, IPv4 first: pods without IPv6 are many,
    /// those without IPv4 are told at once that there is no way.
    ///
    /// While no name server answers, they are the last that were known.
    pub async fn resolve(&self, host: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        if let Ok(ip) = host.parse() {
            return Ok(Arc::new([ip]));
        }
        let answer = self.obtain(host, Patience::Dialling).await?;
        Ok(answer.addresses)
    }

    /// The same for who has time. Returns when to ask again; fails when no name server
    /// answers, whatever was known before.
    pub async fn refresh(&self, host: &str) -> Result<Instant, ResolveError> {
        Ok(self.obtain(host, Patience::Background).await?.until)
    }

    /// Has these names remembered, and no others for longer than there is room: what a registry
    /// calls its token service must not push out what a Connector names.
    pub fn keep(&self, names: BTreeSet<String>) {
        self.memory().keep(names);
    }

    /// Every address that a workload may have been told for `host`, without asking again.
    /// While the resolver fails, these are the last that were known, however old.
    pub fn known(&self, host: &str) -> Vec<IpAddr> {
        match host.parse() {
            Ok(ip) => vec![ip],
            Err(_) => self.memory().seen(host),
        }
    }

    /// Another number says that the files have changed, and with them any answer may.
    pub fn epoch(&self) -> u64 {
        self.files.config().epoch
    }

    /// What is known, or else an answer. One asks for all who want it at that time.
    async fn obtain(&self, host: &str, patience: Patience) -> Result<Answer, ResolveError> {
        let config = self.files.config();
        let (stale, failures, flight) = match self.look(host, &config) {
            Look::Fresh(answer) => return Ok(answer),
            Look::Ask {
                stale,
                failure,
                failures,
                flight,
            } => {
                let stale = stale.filter(|_| patience == Patience::Dialling);
                if let Some(error) = failure.filter(|_| patience == Patience::Dialling) {
                    return stale.ok_or(error);
                }
                (stale, failures, flight)
            }
        };
        let _lead = match (flight.try_lock(), &stale) {
            (Ok(lead), _) => lead,
            (Err(_), Some(stale)) => return Ok(stale.clone()),
            (Err(_), None) => flight.lock().await,
        };
        // Somebody else may have asked meanwhile.
        match self.look(host, &config) {
            Look::Fresh(answer) => return Ok(answer),
            Look::Ask {
                failure: Some(error),
                failures: now,
                ..
            } if now != failures => return stale.ok_or(error),
            Look::Ask { .. } => {}
        }
        let time = match stale {
            Some(_) => limits::RESOLVE_STALE,
            None => limits::RESOLVE,
        };
        let asked = timeout(time, self.ask(host, &config)).await;
        let epoch = config.epoch;
        let found = asked.unwrap_or_else(|_| {
            let servers = config.servers.servers.iter();
            Err(query::silence(servers.map(|server| server.ip)))
        });
        let mut memory = self.memory();
        match found {
            Ok(Found {
                addresses,
                is_partial: true,
                ..
            }) => Ok(memory.remember_family(host, addresses, epoch, Instant::now())),
            Ok(Found { addresses, ttl, .. }) => {
                Ok(memory.remember(host, addresses, ttl, epoch, Instant::now()))
            }
            Err(error) => {
                let in_haste = stale.is_some();
                memory.remember_failure(host, error.clone(), in_haste, epoch, Instant::now());
                stale.ok_or(error)
            }
        }
    }

    async fn ask(&self, host: &str, config: &Config) -> Result<Found, ResolveError> {
        let here = config.hosts.get(host).map(<[_]>::to_vec).or_else(|| {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            is_localhost(host).then(|| loopback.to_vec())
        });
        if let Some(mut addresses) = here {
            addresses.sort_by_key(IpAddr::is_ipv6);
            // It holds until the file changes, which makes it old.
            let ttl = Duration::MAX;
            return Ok(Found {
                addresses,
                ttl,
                is_partial: false,
            });
        }
        let first = if config.servers.rotate {
            self.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        query::ask(host, &config.servers, self.port, first).await
    }

    fn look(&self, host: &str, config: &Config) -> Look {
        self.memory().look(host, config.epoch, Instant::now())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
