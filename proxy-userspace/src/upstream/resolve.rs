//! Addresses of Connector hosts, asked of the system's own resolver (`/etc/hosts`,
//! `nsswitch.conf` and all).

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, timeout};

use crate::limits;

/// Resolves names and remembers the answers for a few seconds.
#[derive(Debug, Default)]
pub struct Resolver {
    names: Mutex<HashMap<String, Known>>,
    /// Names that are not forgotten, however many there are.
    kept: Mutex<BTreeSet<String>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Arc<[IpAddr]>,
    asked: Instant,
    /// Everything that the name resolved to of late: a workload may still dial what an
    /// earlier answer told it.
    seen: HashMap<IpAddr, Instant>,
}

impl Resolver {
    /// Addresses of `host`, which may be one itself, in the resolver's order.
    pub async fn resolve(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(ip) = host.parse() {
            return Ok(Arc::new([ip]));
        }
        if let Some(known) = self.fresh(host) {
            return Ok(known);
        }
        match lookup(host).await {
            Ok(addresses) => Ok(self.remember(host, addresses)),
            // A resolver that fails for a moment is no reason to forget a good answer.
            Err(error) => self.stale(host).ok_or(error),
        }
    }

    /// Has these names remembered, and no others for longer than there is room: what a registry
    /// calls its token service must not push out what a Connector names.
    pub fn keep(&self, names: BTreeSet<String>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Every address that a workload may have been told for `host`, without asking again.
    /// While the resolver fails, these are the last that were known, however old.
    pub fn known(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(ip) = host.parse() {
            return vec![ip];
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .get(host)
            .map(|known| known.seen.keys().copied().collect())
            .unwrap_or_default()
    }

    fn fresh(&self, host: &str) -> Option<Arc<[IpAddr]>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(host)?;
        (known.asked.elapsed() < limits::RESOLVE_AGAIN).then(|| Arc::clone(&known.addresses))
    }

    fn stale(&self, host: &str) -> Option<Arc<[IpAddr]>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(host)?;
        (known.asked.elapsed() < limits::ADDRESS_LIFE).then(|| Arc::clone(&known.addresses))
    }

    fn remember(&self, host: &str, addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
        let now = Instant::now();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = names
            .remove(host)
            .map(|known| known.seen)
            .unwrap_or_default();
        seen.retain(|_, last| now.duration_since(*last) < limits::ADDRESS_LIFE);
        seen.extend(addresses.iter().map(|ip| (*ip, now)));
        while seen.len() > limits::ADDRESSES_PER_NAME {
            let oldest = seen
                .iter()
                .min_by_key(|(_, last)| **last)
                .map(|(ip, _)| *ip);
            let Some(oldest) = oldest else { break };
            seen.remove(&oldest);
        }
        if names.len() >= limits::NAMES {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |known: &Known| known.asked.elapsed() < limits::RESOLVE_AGAIN;
            names.retain(|name, known| is_fresh(known) || kept.contains(name));
            if names.len() >= limits::NAMES {
                names.retain(|name, _| kept.contains(name));
            }
        }
        let addresses: Arc<[IpAddr]> = addresses.into();
        names.insert(
            host.to_owned(),
            Known {
                addresses: Arc::clone(&addresses),
                asked: now,
                seen,
            },
        );
        addresses
    }
}

async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let answers = timeout(limits::RESOLVE, tokio::net::lookup_host((host, 0)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"))??;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for addr in answers {
        if !addresses.contains(&addr.ip()) {
            addresses.push(addr.ip());
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let resolver = Resolver::default();
        let addresses = resolver.resolve("2001:db8::1").await.expect("an address");
        assert_eq!(
            *addresses,
            ["2001:db8::1".parse::<IpAddr>().expect("an address")]
        );
    }

    #[tokio::test]
    async fn earlier_answers_stay_redirected() {
        let resolver = Resolver::default();
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        resolver.remember("registry.example.com", vec![ip(1)]);
        resolver.remember("registry.example.com", vec![ip(2)]);
        let current = resolver
            .resolve("registry.example.com")
            .await
            .expect("known");
        assert_eq!(*current, [ip(2)]);
        let mut all = resolver.known("registry.example.com");
        all.sort();
        assert_eq!(all, [ip(1), ip(2)]);
    }

    #[tokio::test]
    async fn names_of_connectors_are_never_forgotten() {
        let resolver = Resolver::default();
        let ip = IpAddr::from([192, 0, 2, 1]);
        resolver.keep(BTreeSet::from(["kept.example.com".to_owned()]));
        resolver.remember("kept.example.com", vec![ip]);
        for n in 0..=limits::NAMES {
            resolver.remember(&format!("{n}.example.com"), vec![ip]);
        }
        assert_eq!(resolver.known("kept.example.com"), [ip]);
        assert_eq!(resolver.known("0.example.com"), Vec::<IpAddr>::new());
        let names = resolver.names.lock().expect("not poisoned");
        assert!(names.len() <= limits::NAMES);
    }
}
