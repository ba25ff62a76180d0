//! The exchange with a token service.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::cache::Token;
use super::error::{Cause, Party};
use super::fetch::{Fetch, exchange};
use super::flight::Clock;
use crate::state::Credential;

/// Names the proxy towards token services; RFC 6749 requires some name.
const CLIENT_ID: &str = "postern";

/// User name that goes with an identity token where only Basic is understood: Docker's
/// convention for telling such a token from a password.
const IDENTITY_USER: &str = "<token>";

/// User name by which Azure's registries mark a password that is a refresh token.
const REFRESH_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// Life of a token whose answer does not tell it, by the specification.
const DEFAULT_LIFE: Duration = Duration::from_mins(1);

/// Nothing is kept longer than this, whatever the answer says.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// What to ask for, and where.
pub(super) struct TokenRequest<'a> {
    pub(super) realm: &'a Url,
    pub(super) service: Option<&'a str>,
    /// The most important one first.
    pub(super) scopes: &'a [String],
    /// `None` asks anonymously; a [`Credential::Bearer`] needs no exchange and counts as none.
    pub(super) credential: Option<&'a Credential>,
}

impl TokenRequest<'_> {
    /// Asks the token service.
    ///
    /// The GET form comes first since every token service has it. An identity token wants the
    /// POST form, and then GET where that is missing (404, 405) or answers as some registries
    /// do that expect it (400, 401).
    pub(super) async fn send(&self, fetch: &impl Fetch, clock: &Clock) -> Result<Token, Cause> {
        let asked = clock();
        let party = self.party();
        if let Some((username, token)) = self.refresh_token() {
            let posted = exchange(fetch, &party, self.post(token)?).await?;
            let status = posted.status();
            if !matches!(status.as_u16(), 400 | 401 | 404 | 405) {
                return self.read(&party, &posted, asked);
            }
            let basic = basic(username, token.expose_secret())?;
            let got = exchange(fetch, &party, self.get(Some(basic))?).await?;
            // Where both fail, a service that knew the POST form has given its verdict.
            if !got.status().is_success() && matches!(status.as_u16(), 400 | 401) {
                return Err(Cause::CredentialRejected { by: party, status });
            }
            return self.read(&party, &got, asked);
        }
        let authorization = match self.credential {
            Some(Credential::Basic { username, password }) => {
                Some(basic(username.expose_secret(), password.expose_secret())?)
            }
            _ => None,
        };
        let answer = exchange(fetch, &party, self.get(authorization)?).await?;
        self.read(&party, &answer, asked)
    }

    /// What is to be posted, and the user name that goes with it in the GET form.
    fn refresh_token(&self) -> Option<(&str, &SecretString)> {
        match self.credential? {
            Credential::IdentityToken { token } => Some((IDENTITY_USER, token)),
            Credential::Basic { username, password }
                if username.expose_secret() == REFRESH_TOKEN_USER =>
            {
                Some((REFRESH_TOKEN_USER, password))
            }
            Credential::Basic { .. }
            | Credential::Bearer { .. }
            | Credential::Generated(_)
            | Credential::Certificate { .. } => None,
        }
    }

    fn party(&self) -> Party {
        Party::TokenService(self.realm.host_str().unwrap_or_default().into())
    }

    /// One `scope` parameter per scope.
    fn get(&self, authorization: Option<HeaderValue>) -> Result<Request<Bytes>, Cause> {
        let mut url = self.realm.clone();
        if self.service.is_some() || !self.scopes.is_empty() {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.service.map(|service| ("service", service)));
            query.extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
        }
        let mut request = Self::request(Method::GET, &url, Bytes::new())?;
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    /// RFC 6749 section 6; the scopes are joined by a space.
    fn post(&self, refresh_token: &SecretString) -> Result<Request<Bytes>, Cause> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.extend_pairs(self.service.map(|service| ("service", service)));
        form.append_pair("client_id", CLIENT_ID);
        if !self.scopes.is_empty() {
            form.append_pair("scope", &self.scopes.join(" "));
        }
        form.append_pair("refresh_token", refresh_token.expose_secret());
        let mut request = Self::request(Method::POST, self.realm, form.finish().into())?;
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        Ok(request)
    }

    fn request(method: Method, url: &Url, body: Bytes) -> Result<Request<Bytes>, Cause> {
        let reason = "the realm that the registry names is not a valid HTTP address";
        let bad = |_| Cause::BadAnswer {
            by: Party::Registry,
            reason,
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(url.as_str()).map_err(bad)?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    fn read(
        &self,
        party: &Party,
        answer: &Response<Bytes>,
        asked: Instant,
    ) -> Result<Token, Cause> {
        let (by, status) = (party.clone(), answer.status());
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                let (value, life) =
                    parse(answer.body()).map_err(|reason| Cause::BadAnswer { by, reason })?;
                Ok(Token { value, asked, life })
            }
            StatusCode::UNAUTHORIZED if self.credential.is_none() => {
                Err(Cause::CredentialMissing { by, status })
            }
            StatusCode::UNAUTHORIZED => Err(Cause::CredentialRejected { by, status }),
            StatusCode::FORBIDDEN => Err(Cause::Denied { by, status }),
            _ => Err(Cause::Unexpected { by, status }),
        }
    }
}

/// `issued_at` is left out, as it would compare two clocks, and so is `refresh_token`: what
/// the Secret holds is what is used.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    access_token: Option<Cow<'a, str>>,
    expires_in: Option<Value>,
}

/// The token and its life. A token is opaque: nothing inside it is looked at.
fn parse(body: &[u8]) -> Result<(SecretString, Duration), &'static str> {
    let answer: Answer<'_> = serde_json::from_slice(body)
        .map_err(|_| "it is not JSON of the form {\"token\": \"…\"}")?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or("it has neither token nor access_token")?;
    // RFC 6750 section 2.1; anything else could not be sent, or would end the header early.
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token has characters that a header cannot carry");
    }
    Ok((
        SecretString::from(token.into_owned()),
        life(answer.expires_in.as_ref()),
    ))
}

/// Seconds, as number or text. The specification forbids lives under 60 s; a positive one is
/// believed all the same, because a token used for too long fails a push that cannot be
/// repeated. Zero and less is what some services send for "not given".
fn life(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    seconds
        .filter(|seconds| *seconds >= 1.0)
        .map_or(DEFAULT_LIFE, |seconds| {
            Duration::try_from_secs_f64(seconds)
                .unwrap_or(LONGEST_LIFE)
                .min(LONGEST_LIFE)
        })
}

/// RFC 7617.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, Cause> {
    let pair = Zeroizing::new(format!("{username}:{password}"));
    sensitive("Basic ", &Zeroizing::new(STANDARD.encode(pair.as_bytes())))
}

/// RFC 6750.
pub(super) fn bearer(token: &SecretString) -> Result<HeaderValue, Cause> {
    sensitive("Bearer ", token.expose_secret())
}

fn sensitive(scheme: &str, value: &str) -> Result<HeaderValue, Cause> {
    let header = Zeroizing::new(format!("{scheme}{value}"));
    let mut header = HeaderValue::from_str(&header).map_err(|_| Cause::CredentialUnsendable)?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
