//! `kubernetes.io/dockerconfigjson`: what `docker login` writes, with one entry a host.

use std::collections::BTreeMap;

use proxy_common::api::SecretText;
use secrecy::SecretString;
use serde::Deserialize;

use super::error::{Problem, SecretFault};
use super::secret::{check_password, check_token, check_username, decode_base64};
use super::{Address, Credential};

/// The key of such a Secret.
pub(super) const KEY: &str = ".dockerconfigjson";

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<SecretText>,
    username: Option<SecretText>,
    password: Option<SecretText>,
    identitytoken: Option<SecretText>,
}

/// The credential for a Connector's host and port.
pub(super) fn credential(json: &[u8], address: &Address) -> Result<Credential, Problem> {
    // serde_json's own message may quote a value.
    let config: Config = serde_json::from_slice(json).map_err(|_| malformed())?;
    let entry = config
        .auths
        .iter()
        .filter(|(server, _)| is_for(server, address))
        // Of several, the one that is most clearly for the whole host.
        .min_by_key(|(server, _)| {
            without_scheme(server)
                .trim_end_matches('/')
                .matches('/')
                .count()
        })
        .map(|(_, entry)| entry)
        .ok_or_else(|| {
            let host = address.authority();
            Problem::Rule(format!(
                "has no entry for {host}: add one named {host} under `auths`"
            ))
        })?;
    entry.credential()
}

impl Entry {
    /// As Docker reads it: an identity token wins, then `auth`, then the two fields.
    fn credential(&self) -> Result<Credential, Problem> {
        if let Some(token) = given(self.identitytoken.as_ref()) {
            check_token(token).map_err(Problem::SecretValue)?;
            return Ok(Credential::IdentityToken {
                token: SecretString::from(token),
            });
        }
        if let Some(auth) = given(self.auth.as_ref()) {
            let decoded = decode_base64(auth).ok_or_else(malformed)?;
            let pair = std::str::from_utf8(&decoded).map_err(|_| malformed())?;
            let (username, password) = pair.split_once(':').ok_or_else(malformed)?;
            return basic(username, password.trim_end_matches('\0'));
        }
        let username = self.username.as_ref().map_or("", SecretText::expose);
        match given(self.password.as_ref()) {
            Some(password) => basic(username, password),
            None => Err(Problem::Rule(
                "has an entry for this host without a credential: give it `auth`, `username` and \
                 `password`, or `identitytoken`"
                    .to_owned(),
            )),
        }
    }
}

fn given(text: Option<&SecretText>) -> Option<&str> {
    text.map(SecretText::expose).filter(|text| !text.is_empty())
}

fn basic(username: &str, password: &str) -> Result<Credential, Problem> {
    check_username(username).map_err(Problem::SecretValue)?;
    check_password(password).map_err(Problem::SecretValue)?;
    Ok(Credential::Basic {
        username: SecretString::from(username),
        password: SecretString::from(password),
    })
}

fn malformed() -> Problem {
    Problem::SecretValue(SecretFault::DockerConfig)
}

/// Whether an entry's name, a host or a URL, means the host and port of an address.
fn is_for(server: &str, address: &Address) -> bool {
    let authority = without_scheme(server).split('/').next().unwrap_or_default();
    // Read as a URL of the address's scheme, so that default ports compare equal.
    Address::parse(&format!("{}://{authority}", address.scheme))
        .is_ok_and(|server| server.host == address.host && server.port == address.port)
}

fn without_scheme(server: &str) -> &str {
    server.split_once("://").map_or(server, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn shown(json: &str, address: &str) -> Result<String, Problem> {
        let address = Address::parse(address).expect(address);
        Ok(match credential(json.as_bytes(), &address)? {
            Credential::Basic { username, password } => {
                format!("{}:{}", username.expose_secret(), password.expose_secret())
            }
            Credential::IdentityToken { token } => format!("<{}>", token.expose_secret()),
            _ => "other".to_owned(),
        })
    }

    #[test]
    fn the_entry_of_the_host_and_port_is_taken() {
        let json = r#"{"auths": {
            "registry.example.com": {"username": "a", "password": "1"},
            "registry.example.com:5000": {"auth": "YjoyOjM=", "email": "x"},
            "https://hub.example.com/v1/": {"username": "c", "password": "3"},
            "HUB.example.com/team": {"username": "d", "password": "4"},
            "id.example.com": {"auth": "ZTo1", "identitytoken": "refresh"}
        }, "credsStore": "x"}"#;
        for (address, expected) in [
            ("https://registry.example.com", "a:1"),
            ("https://registry.example.com:5000", "b:2:3"),
            ("http://registry.example.com:5000", "b:2:3"),
            ("http://registry.example.com", "a:1"),
            ("https://id.example.com", "<refresh>"),
        ] {
            assert_eq!(shown(json, address).as_deref(), Ok(expected), "{address}");
        }
        assert_eq!(
            shown(json, "https://other.example.com:8443")
                .expect_err("no entry")
                .to_string(),
            "has no entry for other.example.com:8443: add one named other.example.com:8443 under \
             `auths`"
        );
    }

    #[test]
    fn an_entry_for_the_whole_host_wins_over_one_for_a_path() {
        let json = r#"{"auths": {
            "a.example.com/team/x": {"username": "deep", "password": "1"},
            "https://a.example.com": {"username": "host", "password": "2"}
        }}"#;
        assert_eq!(
            shown(json, "https://a.example.com").as_deref(),
            Ok("host:2")
        );
    }

    #[test]
    fn broken_configurations_are_refused_without_quotes() {
        for json in [
            "hunter2",
            r#"{"auths": {"a.example.com": "hunter2"}}"#,
            r#"{"auths": {"a.example.com": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"a.example.com": {"auth": "aHVudGVyMg=="}}}"#,
            r#"{"auths": {"a.example.com": {"username": "hunter2"}}}"#,
            r#"{"auths": {"a.example.com": {"username": "hunter2:", "password": "x"}}}"#,
            r#"{"auths": {"a.example.com": {"username": "a", "password": "hunter2\n"}}}"#,
            r#"{"hunter2": {}}"#,
        ] {
            let error = shown(json, "https://a.example.com").expect_err(json);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
