//! One Connector's authentication.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use secrecy::ExposeSecret;
use url::Url;

use super::attempt::{Attempt, Mount, Used};
use super::cache::{self, Key, TokenCache};
use super::demand::{self, Demand, Learned};
use super::error::{Cause, OciError, Party};
use super::fetch::Fetch;
use super::flight::{Clock, Flight};
use super::realm;
use super::route::Route;
use super::token::{self, TokenRequest};
use super::uploads::Uploads;
use crate::credential::{is_presigned, paths};
use crate::state::{Connector, Credential};

/// Authenticates the requests of one Connector, whose credential it is bound to: a Connector
/// whose Secret or address changed gets a new one.
///
/// Meant to be shared by everything that serves the Connector, so that tokens are asked for
/// once. No lock is held across an `await`, except for the queue of those who want the same
/// token; dropping any of the futures is harmless.
pub struct RegistryAuth {
    pub(super) connector: Arc<Connector>,
    pub(super) learned: Flight<Learned>,
    tokens: TokenCache,
    uploads: Uploads,
    pub(super) clock: Clock,
}

impl RegistryAuth {
    /// Nothing is sent before the first use.
    pub fn new(connector: Arc<Connector>) -> Self {
        Self::with_clock(connector, Arc::new(Instant::now))
    }

    pub(super) fn with_clock(connector: Arc<Connector>, clock: Clock) -> Self {
        let tokens = TokenCache::new(cache::CAPACITY);
        Self {
            connector,
            learned: Flight::default(),
            tokens,
            uploads: Uploads::new(),
            clock,
        }
    }

    /// Learns what the registry demands from our own `GET /v2/`, which proves that there is a
    /// registry. A client's ping is then answered with [`answer::ping`](super::answer::ping).
    pub async fn ping(&self, fetch: &impl Fetch) -> Result<(), OciError> {
        self.demand(fetch)
            .await
            .map(drop)
            .map_err(|cause| self.error(cause))
    }

    /// The value of `Authorization` for a request, marked as sensitive; `None` when it is to
    /// be sent without one.
    ///
    /// To be called before the first byte of the body is read. The client's own
    /// `Authorization` is never sent along, also where this returns `None`.
    pub async fn authorize(
        &self,
        fetch: &impl Fetch,
        attempt: &mut Attempt,
    ) -> Result<Option<HeaderValue>, OciError> {
        attempt.used = Used::Unknown;
        if is_presigned(attempt.uri()) {
            return Ok(None);
        }
        if matches!(attempt.route, Route::Other | Route::Outside)
            && let Some(route) = self.uploads.find(attempt.method(), attempt.uri())
        {
            attempt.route = route;
        }
        if attempt.route == Route::Outside {
            return Ok(None);
        }
        self.authorization(fetch, attempt)
            .await
            .map_err(|cause| self.error(cause))
    }

    /// To be told of a 2xx answer: remembers where an upload goes on, for registries that
    /// keep their upload sessions outside of `/v2/`.
    pub fn answered(&self, attempt: &Attempt, headers: &HeaderMap) {
        let (route, path) = (&attempt.route, attempt.uri().path());
        self.uploads
            .learn(&self.connector.address, route, path, headers);
    }

    /// Whether `uri` is the token service that the registry is known to name, so that a
    /// client's own request to it is to be answered with
    /// [`answer::placeholder_token`](super::answer::placeholder_token).
    ///
    /// Without an authority, `uri` is taken to be on the registry's own host. False as long
    /// as nothing was learnt: call [`ping`](Self::ping) first.
    pub fn is_realm(&self, uri: &Uri) -> bool {
        let Some(realm) = self.realm() else {
            return false;
        };
        let same_host = match uri.authority() {
            None => realm::is_same_host(&realm, &self.connector.address),
            Some(authority) => {
                let plain = uri.scheme_str() == Some("http");
                let port = authority.port_u16().unwrap_or(if plain { 80 } else { 443 });
                realm
                    .host_str()
                    .is_some_and(|host| host.eq_ignore_ascii_case(authority.host()))
                    && realm.port_or_known_default() == Some(port)
            }
        };
        same_host && paths::normal(uri.path()) == paths::normal(realm.path())
    }

    /// Whether a path outside of the API is an upload session that the registry has opened.
    pub fn knows_session(&self, method: &Method, uri: &Uri) -> bool {
        self.uploads.find(method, uri).is_some()
    }

    /// The token service that the registry is known to name.
    pub fn realm(&self) -> Option<Url> {
        match &self.learned.peek()?.demand {
            Demand::Token { realm, .. } => Some(realm.clone()),
            Demand::Nothing | Demand::Basic => None,
        }
    }

    /// Proves the credential, for probes: `GET /v2/`, a token without scope if one is
    /// demanded, and `GET /v2/` with it, which must be 200. Uses and fills no cache.
    ///
    /// Without a credential it is enough that the registry and its token service answer,
    /// since anonymous rights hold for single repositories.
    pub async fn check(&self, fetch: &impl Fetch) -> Result<(), OciError> {
        self.prove(fetch).await.map_err(|cause| self.error(cause))
    }

    async fn prove(&self, fetch: &impl Fetch) -> Result<(), Cause> {
        let (registry, credential) = (&self.connector.address, self.credential());
        let anonymous = demand::ping(fetch, registry, None).await?;
        if anonymous.status() == StatusCode::NOT_FOUND {
            return Err(Cause::Unexpected {
                by: Party::Registry,
                status: anonymous.status(),
            });
        }
        let demand = Demand::read(&anonymous, registry)?;
        let authorization = match (&demand, credential) {
            (Demand::Token { realm, service }, _) if needs_exchange(credential) => {
                let service = service.as_deref();
                let request = TokenRequest {
                    realm,
                    service,
                    scopes: &[],
                    credential,
                };
                let token =
                    request
                        .send(fetch, &self.clock)
                        .await
                        .map_err(|cause| match cause {
                            // Without a scope there is nothing to deny but the account.
                            Cause::Denied { by, status } if credential.is_some() => {
                                Cause::CredentialRejected { by, status }
                            }
                            other => other,
                        })?;
                Some(token::bearer(&token.value)?)
            }
            (Demand::Basic, None) => {
                let (by, status) = (Party::Registry, StatusCode::UNAUTHORIZED);
                return Err(Cause::CredentialMissing { by, status });
            }
            (Demand::Basic, Some(Credential::IdentityToken { .. })) => {
                return Err(Cause::CredentialUnfit);
            }
            // A registry that is open to everybody may still refuse a wrong password.
            _ => itself(credential)?,
        };
        if credential.is_none() || authorization.is_none() {
            return Ok(());
        }
        let answer = demand::ping(fetch, registry, authorization).await?;
        let (by, status) = (Party::Registry, answer.status());
        match status.as_u16() {
            200 => Ok(()),
            401 | 403 => Err(Cause::CredentialRejected { by, status }),
            _ => Err(Cause::Unexpected { by, status }),
        }
    }

    /// What requests can carry. A certificate is shown before anything is asked for, so for a
    /// registry that has seen one the rest is anonymous.
    pub(super) fn credential(&self) -> Option<&Credential> {
        let credential = self.connector.credential.as_ref();
        credential.filter(|it| it.certificate().is_none())
    }

    async fn demand(&self, fetch: &impl Fetch) -> Result<Arc<Learned>, Cause> {
        let obtain = async {
            let demand = Demand::ping(fetch, &self.connector.address).await?;
            Ok(Learned {
                demand,
                pinged: Some((self.clock)()),
            })
        };
        self.learned.get(&self.clock, obtain).await
    }

    async fn authorization(
        &self,
        fetch: &impl Fetch,
        attempt: &mut Attempt,
    ) -> Result<Option<HeaderValue>, Cause> {
        let learned = self.demand(fetch).await?;
        let credential = self.credential();
        match &learned.demand {
            Demand::Token { realm, service } if needs_exchange(credential) => {
                let (realm, service) = (realm.clone(), service.clone());
                self.token(fetch, attempt, learned, &realm, service.as_deref())
                    .await
            }
            Demand::Basic if matches!(credential, Some(Credential::IdentityToken { .. })) => {
                Err(Cause::CredentialUnfit)
            }
            // An anonymous Connector leaves it to the registry: there are some that demand
            // Basic for their ping and serve public repositories without.
            Demand::Basic | Demand::Token { .. } if credential.is_some() => {
                let authorization = itself(credential)?;
                attempt.used = Used::Credential(learned);
                Ok(authorization)
            }
            _ => {
                attempt.used = Used::Nothing(learned);
                Ok(None)
            }
        }
    }

    async fn token(
        &self,
        fetch: &impl Fetch,
        attempt: &mut Attempt,
        learned: Arc<Learned>,
        realm: &Url,
        service: Option<&str>,
    ) -> Result<Option<HeaderValue>, Cause> {
        loop {
            let scopes = attempt.scopes();
            let flight = self.tokens.flight(Key::new(realm, service, &scopes));
            let credential = self.credential();
            let request = TokenRequest {
                realm,
                service,
                scopes: &scopes,
                credential,
            };
            match flight
                .get(&self.clock, request.send(fetch, &self.clock))
                .await
            {
                Ok(token) => {
                    let authorization = token::bearer(&token.value)?;
                    attempt.used = Used::Token {
                        learned,
                        flight,
                        token,
                    };
                    return Ok(Some(authorization));
                }
                // Some services refuse the whole token for one scope.
                Err(
                    Cause::Denied { .. }
                    | Cause::CredentialRejected { .. }
                    | Cause::CredentialMissing { .. },
                ) if attempt.has_source_scope() => {
                    attempt.mount = Mount::WithoutSourceScope;
                }
                Err(cause) => return Err(cause),
            }
        }
    }

    pub(super) fn error(&self, cause: Cause) -> OciError {
        let registry = demand::origin(&self.connector.address);
        OciError {
            connector: self.connector.to_string(),
            registry,
            cause,
        }
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("connector", &self.connector.to_string())
            .finish_non_exhaustive()
    }
}

/// A bearer token in the Secret is the registry's own, and is sent as it is.
fn needs_exchange(credential: Option<&Credential>) -> bool {
    !matches!(credential, Some(Credential::Bearer { .. }))
}

/// The credential as a header, if it can be one.
fn itself(credential: Option<&Credential>) -> Result<Option<HeaderValue>, Cause> {
    match credential {
        Some(Credential::Basic { username, password }) => {
            token::basic(username.expose_secret(), password.expose_secret()).map(Some)
        }
        Some(Credential::Bearer { token }) => token::bearer(token).map(Some),
        // Classes of this protocol have no generators.
        Some(
            Credential::IdentityToken { .. }
            | Credential::Generated(_)
            | Credential::Certificate { .. },
        )
        | None => Ok(None),
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
