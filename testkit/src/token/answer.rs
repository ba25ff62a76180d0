//! Who gets which token.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::http::Question;
use super::{ISSUER, Shared, TokenOptions};
use crate::base64;

impl Shared {
    /// Status and body of the answer.
    pub(super) fn answer(&self, question: &Question) -> (u16, String) {
        let Some(user) = self.authenticate(question) else {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong credentials"}]}"#;
            return (401, body.to_owned());
        };
        match self.token(question, &user) {
            Ok(token) => {
                let lifetime = self.options.lifetime_seconds;
                let body = format!(
                    r#"{{"token":"{token}","access_token":"{token}","expires_in":{lifetime}}}"#
                );
                (200, body)
            }
            Err(error) => (
                500,
                format!("{{\"error\":{}}}", json(&format!("{error:#}"))),
            ),
        }
    }

    /// The user, empty for an anonymous one.
    fn authenticate(&self, question: &Question) -> Option<String> {
        let TokenOptions {
            user,
            password,
            anonymous_pull,
            ..
        } = &self.options;
        let basic = format!("Basic {}", base64::encode(format!("{user}:{password}")));
        let known = if question.method == "POST" {
            question.first("username") == Some(user) && question.first("password") == Some(password)
        } else {
            question.authorization.as_deref() == Some(&basic)
        };
        let nothing_shown = question.authorization.is_none() && question.method != "POST";
        if known {
            Some(user.clone())
        } else {
            (nothing_shown && *anonymous_pull).then(String::new)
        }
    }

    fn token(&self, question: &Question, user: &str) -> Result<String> {
        let scopes = question.all("scope").flat_map(str::split_whitespace);
        let access: Vec<_> = scopes
            .filter_map(|scope| self.granted(scope, user))
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is wrong")?;
        let issued = now.as_secs();
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":{},"aud":{},"exp":{},"nbf":{issued},"iat":{issued},"jti":"{}","access":[{}]}}"#,
            json(user),
            json(&self.options.service),
            issued + self.options.lifetime_seconds,
            now.as_nanos(),
            access.join(","),
        );
        self.signer.sign(&claims)
    }

    /// The part of a scope (`type:name:action,action`) that the user may have.
    fn granted(&self, scope: &str, user: &str) -> Option<String> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let repositories = self.options.repositories.as_ref();
        if repositories.is_some_and(|allowed| !allowed.iter().any(|one| one == name)) {
            return None;
        }
        let actions: Vec<_> = actions
            .split(',')
            .filter(|action| !user.is_empty() || *action == "pull")
            .map(json)
            .collect();
        let (kind, name) = (json(kind), json(name));
        Some(format!(
            r#"{{"type":{kind},"name":{name},"actions":[{}]}}"#,
            actions.join(",")
        ))
    }
}

/// A JSON string.
fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.push('?'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
