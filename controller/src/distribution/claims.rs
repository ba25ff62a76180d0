//! What a token says of itself. Nothing here is verified: it never lets anybody in, it only
//! saves the API server the review of what cannot be valid.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// How far the clocks of the API server and of this process may be apart.
const LEEWAY: Duration = Duration::from_mins(1);

/// The claims of a JSON Web Token (RFC 7519) that every token of a service account has.
#[derive(Deserialize)]
pub(super) struct Claims {
    aud: Audiences,
    sub: String,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// What can be said of a token without asking.
pub(super) enum Shape {
    /// It is no JSON Web Token: another authenticator of the API server may know it.
    Opaque,
    /// It has the three parts of one, and cannot be that of a service account.
    Malformed,
    /// It is one, or pretends to be.
    Jwt(Claims),
}

impl Shape {
    pub(super) fn of(token: &str) -> Self {
        let parts: Vec<&str> = token.split('.').collect();
        let [_, payload, _] = parts[..] else {
            return Self::Opaque;
        };
        let claims = URL_SAFE_NO_PAD.decode(payload).ok();
        match claims.and_then(|json| serde_json::from_slice(&json).ok()) {
            Some(claims) => Self::Jwt(claims),
            None => Self::Malformed,
        }
    }
}

impl Claims {
    /// Whether a review could find the token valid for this audience and user.
    pub(super) fn may_be(&self, audience: &str, user: &str, now: SystemTime) -> bool {
        let has_audience = match &self.aud {
            Audiences::One(one) => one == audience,
            Audiences::Several(several) => several.iter().any(|it| it == audience),
        };
        has_audience && self.sub == user && !self.is_over(now, LEEWAY)
    }

    /// Whether the token is past its own end.
    pub(super) fn is_over(&self, now: SystemTime, leeway: Duration) -> bool {
        let end = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.exp))
            .and_then(|end| end.checked_add(leeway));
        end.is_some_and(|end| end <= now)
    }
}

/// Whether a token is past the end that it names itself.
pub(super) fn is_over(token: &str, now: SystemTime) -> bool {
    match Shape::of(token) {
        Shape::Jwt(claims) => claims.is_over(now, Duration::ZERO),
        Shape::Opaque | Shape::Malformed => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const USER: &str = "system:serviceaccount:postern-system:postern-agent";

    fn token(claims: &Value) -> String {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        format!("e30.{payload}.c2lnbmF0dXJl")
    }

    fn fits(claims: &Value) -> bool {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        match Shape::of(&token(claims)) {
            Shape::Jwt(claims) => claims.may_be("us", USER, now),
            Shape::Opaque | Shape::Malformed => false,
        }
    }

    #[test]
    fn what_cannot_be_valid_is_told_from_what_may_be() {
        for (claims, expected) in [
            (
                json!({"aud": ["others", "us"], "sub": USER, "exp": 2000}),
                true,
            ),
            (json!({"aud": "us", "sub": USER, "exp": 2000}), true),
            // Clocks differ.
            (json!({"aud": "us", "sub": USER, "exp": 990}), true),
            (json!({"aud": "us", "sub": USER, "exp": 900}), false),
            (json!({"aud": "us", "sub": USER, "exp": u64::MAX}), true),
            (json!({"aud": ["others"], "sub": USER, "exp": 2000}), false),
            (json!({"aud": "us", "sub": "another", "exp": 2000}), false),
            (json!({"aud": "us", "sub": USER}), false),
            (json!({"aud": "us", "exp": 2000}), false),
            (json!({"sub": USER, "exp": 2000}), false),
            (json!({"aud": "us", "sub": USER, "exp": "soon"}), false),
        ] {
            assert_eq!(fits(&claims), expected, "{claims}");
        }
    }

    #[test]
    fn a_token_is_opaque_unless_it_has_three_parts() {
        assert!(matches!(Shape::of("token-of-node-1"), Shape::Opaque));
        for malformed in ["a.b.c", "..", "e30.e30=.x", "e30.e30.x"] {
            assert!(
                matches!(Shape::of(malformed), Shape::Malformed),
                "{malformed}"
            );
        }
    }

    #[test]
    fn a_token_is_over_at_its_own_end() {
        let token = token(&json!({"aud": "us", "sub": USER, "exp": 1000}));
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        assert!(!is_over(&token, at(999)));
        assert!(is_over(&token, at(1000)));
        assert!(!is_over("opaque", at(1000)));
    }
}
