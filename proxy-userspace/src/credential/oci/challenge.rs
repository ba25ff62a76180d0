//! `WWW-Authenticate` of a registry.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;

/// What a registry asks for with a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 7617; its realm is a label for people and not kept.
    Basic,
    /// A token from a token service, as the distribution project specifies it.
    Bearer {
        /// Address of the token service as the registry wrote it: not to be trusted before
        /// [`realm::verify`](super::realm::verify) allowed it.
        realm: String,
        /// Name of the registry towards its token service.
        service: Option<String>,
        /// RFC 6750 section 3.1: `insufficient_scope`, `invalid_token`, …
        error: Option<String>,
    },
}

impl Challenge {
    /// The first Basic or Bearer challenge of an answer; `None` when there is neither.
    ///
    /// RFC 9110 section 11.6.1 allows several challenges in one line and several lines. What
    /// cannot be parsed ends its own line only.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| ChallengeParser::new(line).map_while(Result::ok))
            .find_map(|challenge| Self::supported(&challenge))
    }

    fn supported(challenge: &ChallengeRef<'_>) -> Option<Self> {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Some(Self::Bearer {
            realm: parameter(challenge, "realm")?,
            service: parameter(challenge, "service"),
            error: parameter(challenge, "error"),
        })
    }
}

/// An empty parameter counts as a missing one.
fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let (_, value) = challenge
        .params
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value.to_unescaped()).filter(|value| !value.is_empty())
}

#[cfg(test)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "what is compared is the result of parsing"
)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(lines: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(line));
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, error: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            error: error.map(Into::into),
        })
    }

    const REALM: &str = "https://auth.example.com/token";

    #[test]
    fn a_comma_inside_a_quoted_scope_does_not_end_the_parameter() {
        let line = r#"Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push",error="insufficient_scope""#;
        assert_eq!(
            parse(&[line]),
            bearer(REALM, Some("registry"), Some("insufficient_scope"))
        );
    }

    #[test]
    fn spaces_after_commas_and_any_case_of_names_are_accepted() {
        let line = r#"bearer Realm="https://auth.example.com/token" , SERVICE="registry""#;
        assert_eq!(parse(&[line]), bearer(REALM, Some("registry"), None));
    }

    #[test]
    fn negotiate_before_basic_in_one_line_is_passed_over() {
        assert_eq!(
            parse(&[r#"Negotiate, Basic realm="registry""#]),
            Some(Challenge::Basic)
        );
    }

    #[test]
    fn negotiate_in_a_header_line_of_its_own_is_passed_over() {
        let lines = [
            "Negotiate",
            r#"Bearer realm="https://auth.example.com/token""#,
        ];
        assert_eq!(parse(&lines), bearer(REALM, None, None));
    }

    #[test]
    fn the_first_of_basic_and_bearer_wins() {
        let line = r#"Basic realm="r", Bearer realm="https://auth.example.com/token""#;
        assert_eq!(parse(&[line]), Some(Challenge::Basic));
        let line = r#"Bearer realm="https://auth.example.com/token", Basic realm="r""#;
        assert_eq!(parse(&[line]), bearer(REALM, None, None));
    }

    #[test]
    fn a_malformed_line_does_not_hide_the_next_one() {
        assert_eq!(
            parse(&["Digest =,=", r#"Basic realm="r""#]),
            Some(Challenge::Basic)
        );
    }

    #[test]
    fn bearer_without_a_realm_is_no_challenge() {
        assert_eq!(parse(&[r#"Bearer service="registry""#]), None);
        assert_eq!(parse(&[r#"Bearer realm="",service="registry""#]), None);
    }

    #[test]
    fn escapes_in_quoted_values_are_undone() {
        let line = r#"Bearer realm="https://auth.example.com/token",service="a\"b""#;
        assert_eq!(parse(&[line]), bearer(REALM, Some("a\"b"), None));
    }

    #[test]
    fn other_schemes_alone_are_no_challenge() {
        assert_eq!(
            parse(&["Negotiate", r#"Digest realm="r", nonce="n""#]),
            None
        );
        assert_eq!(parse(&[]), None);
    }
}
