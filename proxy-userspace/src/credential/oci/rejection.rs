//! What follows when the registry refuses an authorized request after all.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::attempt::{Attempt, Mount, Rejection, Used};
use super::cache::Token;
use super::challenge::Challenge;
use super::demand::{Demand, Learned};
use super::error::{Cause, Party};
use super::registry::RegistryAuth;

/// A token younger than this that lacks a scope is not asked for again: the next one would
/// lack it too.
const JUST_ISSUED: Duration = Duration::from_secs(5);

impl RegistryAuth {
    /// To be told of a 401 or 403 that the registry answered to an authorized attempt: drops
    /// what turned out to be wrong and says what to do.
    ///
    /// A request is repeated at most once as it is; a mount moreover without the scope of its
    /// source, and then as an ordinary upload.
    pub fn rejected(
        &self,
        attempt: &mut Attempt,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Rejection {
        let used = std::mem::replace(&mut attempt.used, Used::Unknown);
        let promising = match &used {
            Used::Unknown => Ok(false),
            Used::Nothing(known) | Used::Credential(known) => self.relearn(known, status, headers),
            Used::Token {
                learned,
                flight,
                token,
            } => {
                let is_old = self.is_old(token);
                // A right given since needs a new token. Just after a 403, it would be the same.
                if status == StatusCode::UNAUTHORIZED || is_old {
                    flight.forget(token);
                }
                let hopeless = lacks_scope(headers) || attempt.route.is_mount();
                let renewable = status == StatusCode::UNAUTHORIZED && (is_old || !hopeless);
                self.relearn(learned, status, headers)
                    .map(|relearned| relearned || renewable)
            }
        };
        match promising {
            Err(cause) => Rejection::Refused(self.error(cause)),
            Ok(true) if !attempt.repeated => {
                attempt.repeated = true;
                Rejection::Repeat
            }
            Ok(_) if matches!(used, Used::Token { .. }) && attempt.has_source_scope() => {
                attempt.mount = Mount::WithoutSourceScope;
                Rejection::Repeat
            }
            Ok(_) if attempt.give_up_mount() => Rejection::Repeat,
            Ok(_) => Rejection::Refused(self.error(self.verdict(&used, status))),
        }
    }

    /// Compares the challenge of a 401 with what is known; true when that was wrong, so that
    /// the same request will be authorized in another way.
    fn relearn(
        &self,
        known: &Arc<Learned>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<bool, Cause> {
        if status != StatusCode::UNAUTHORIZED {
            return Ok(false);
        }
        let registry = &self.connector.address;
        let was_open = known.demand == Demand::Nothing;
        let offered = match Demand::of(headers, registry) {
            Err(cause) if was_open => return Err(cause),
            offered => offered.unwrap_or_default(),
        };
        match offered {
            Some(demand) if demand == known.demand => return Ok(false),
            // The ping is open to everybody, but this request is not.
            Some(demand) if was_open && demand.stays_at(registry) => {
                self.learned.put(Learned {
                    demand,
                    pinged: None,
                });
            }
            // Only our own ping may name another token service: ask again.
            _ => self.learned.forget(known),
        }
        Ok(true)
    }

    fn verdict(&self, used: &Used, status: StatusCode) -> Cause {
        let by = Party::Registry;
        match used {
            _ if status != StatusCode::UNAUTHORIZED => Cause::Denied { by, status },
            Used::Credential(_) => Cause::CredentialRejected { by, status },
            _ if self.credential().is_none() => Cause::CredentialMissing { by, status },
            _ => Cause::Denied { by, status },
        }
    }

    fn is_old(&self, token: &Token) -> bool {
        (self.clock)().saturating_duration_since(token.asked) >= JUST_ISSUED
    }
}

/// RFC 6750 section 3.1.
fn lacks_scope(headers: &HeaderMap) -> bool {
    let challenge = Challenge::of(headers);
    matches!(challenge, Some(Challenge::Bearer { error: Some(error), .. }) if error == "insufficient_scope")
}

#[cfg(test)]
#[path = "rejection_tests.rs"]
mod tests;
