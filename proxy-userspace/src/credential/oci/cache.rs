//! Tokens in use, by what they are for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use url::Url;

use super::bounded::Bounded;
use super::flight::{Age, Aging, Flight};

/// How many tokens one Connector keeps.
pub(super) const CAPACITY: usize = 1024;

/// Tokens with at least this life are replaced when [`MARGIN`] is left; for shorter ones that
/// would waste a large part of it.
const LONG_LIFE: Duration = Duration::from_mins(2);
const MARGIN: Duration = Duration::from_secs(30);

/// A token is not used in its very last moments, in which it may expire on the way.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// A bearer token of a token service.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) value: SecretString,
    /// When it was asked for: its life counts from here, by our clock alone.
    pub(super) asked: Instant,
    pub(super) life: Duration,
}

impl Aging for Token {
    fn age(&self, now: Instant) -> Age {
        let left = self
            .life
            .saturating_sub(now.saturating_duration_since(self.asked));
        if left > refresh_margin(self.life) {
            Age::Fresh
        } else if left > LAST_MOMENTS {
            Age::Stale
        } else {
            Age::Expired
        }
    }
}

/// How much life is left when a token is replaced: a tenth, or 30 s if that is more and the
/// life is not short.
fn refresh_margin(life: Duration) -> Duration {
    let tenth = life / 10;
    if life < LONG_LIFE {
        tenth
    } else {
        tenth.max(MARGIN)
    }
}

/// What a token is for. The credential is not part of it: a cache belongs to one Connector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    realm: String,
    service: Option<String>,
    scopes: Vec<String>,
}

impl Key {
    pub(super) fn new(realm: &Url, service: Option<&str>, scopes: &[String]) -> Self {
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            realm: realm.as_str().to_owned(),
            service: service.map(Into::into),
            scopes,
        }
    }
}

/// The tokens of one Connector.
pub(super) struct TokenCache {
    flights: Mutex<Bounded<Key, Arc<Flight<Token>>>>,
}

impl TokenCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            flights: Mutex::new(Bounded::new(capacity)),
        }
    }

    /// The place of the token for `key`, which may be empty.
    pub(super) fn flight(&self, key: Key) -> Arc<Flight<Token>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(&key).unwrap_or_else(|| {
            let flight = Arc::<Flight<Token>>::default();
            flights.insert(key, Arc::clone(&flight));
            flight
        })
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
