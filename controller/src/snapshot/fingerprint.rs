//! Telling whether a credential changed, without keeping or comparing its bytes.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, Tag};
use aws_lc_rs::rand::SystemRandom;
use connectors::Credential;
use connectors::generator::Generated;
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

/// The system has no random numbers to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the system has no random numbers")]
pub struct NoRandomness;

impl From<Unspecified> for NoRandomness {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// Makes fingerprints under a key of this process; they mean nothing outside of it.
pub(super) struct Fingerprints(Key);

/// Equal for equal credentials, and for no others.
pub(super) struct Fingerprint(Tag);

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        // Nobody but this process can choose tags, so the time that this takes tells nothing.
        self.0.as_ref() == other.0.as_ref()
    }
}

impl Fingerprints {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        Ok(Self(Key::generate(HMAC_SHA256, &SystemRandom::new())?))
    }

    pub(super) fn of(&self, credential: &Credential) -> Fingerprint {
        let (kind, parts) = match credential {
            Credential::Basic { username, password } => (1, vec![bytes(username), bytes(password)]),
            Credential::Bearer { token } => (2, vec![bytes(token)]),
            Credential::IdentityToken { token } => (3, vec![bytes(token)]),
            Credential::Generated(it) => (4, generated(it).collect()),
            Credential::Certificate {
                certificate,
                generated: also,
            } => {
                let chain = certificate.chain().iter().map(|it| &**it);
                // No certificate is empty, so the key does not pass for one.
                let parts = chain.chain([&b""[..], certificate.key()]);
                let also = also.iter().flat_map(|it| generated(it));
                (5, parts.chain(also).collect())
            }
        };
        let mut context = Context::with_key(&self.0);
        context.update(&[kind]);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        Fingerprint(context.sign())
    }
}

fn generated(it: &Generated) -> impl Iterator<Item = &[u8]> {
    let (data, params) = (it.data().iter(), it.params().iter());
    let data = data.flat_map(|(key, value)| [key.as_bytes(), bytes(value)]);
    let params = params.flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
    // The empty part keeps one of the data from passing for a parameter.
    let rest = data.chain([&b""[..]]).chain(params);
    [it.rego().as_bytes()].into_iter().chain(rest)
}

fn bytes(secret: &SecretString) -> &[u8] {
    secret.expose_secret().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use connectors::ClientCertificate;

    use super::*;
    use crate::testing::pair;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    #[test]
    fn fingerprints_are_equal_for_equal_credentials_only() {
        let token = |token: &str| Credential::Bearer {
            token: token.into(),
        };
        let refresh = |token: &str| Credential::IdentityToken {
            token: token.into(),
        };
        let make: [&dyn Fn() -> Credential; 6] = [
            &|| basic("me", "hunter2"),
            &|| basic("me", "hunter3"),
            &|| basic("mehunter2", ""),
            &|| basic("m", "ehunter2"),
            &|| token("hunter2"),
            &|| refresh("hunter2"),
        ];
        let fingerprints = Fingerprints::new().expect("randomness");
        for (row, one) in make.iter().enumerate() {
            for (column, other) in make.iter().enumerate() {
                let equal = fingerprints.of(&one()) == fingerprints.of(&other());
                assert_eq!(equal, row == column, "{row} {column}");
            }
        }
    }

    #[test]
    fn a_generator_and_all_that_it_is_given_count() {
        let generated = |value: &str, token: &str, realm: &str| {
            let rego = format!(
                "package proxy\nauth := {{\"position\": \"header\", \"auth\": {{\"x\": {value}}}}}"
            );
            let data = [("token".to_owned(), token.into())].into();
            let params = [("realm".to_owned(), realm.to_owned())].into();
            let generated = Generated::new(&rego, data, params).expect("a generator");
            Credential::Generated(Arc::new(generated))
        };
        let token = "input.data.token";
        let fingerprints = Fingerprints::new().expect("randomness");
        let first = fingerprints.of(&generated(token, "a", "b"));
        assert!(first == fingerprints.of(&generated(token, "a", "b")));
        for other in [
            generated("\"x\"", "a", "b"),
            generated(token, "c", "b"),
            generated(token, "a", "c"),
        ] {
            assert!(first != fingerprints.of(&other));
        }
    }

    #[test]
    fn a_certificate_its_key_and_its_generator_count() {
        let certificate = || {
            let pair = pair(0..i64::from(u32::MAX));
            let value = |key| pair.get(key).expect("a value");
            let certificate = ClientCertificate::from_pem(value("tls.crt"), value("tls.key"));
            Arc::new(certificate.expect("a certificate"))
        };
        let generated = || {
            let rego =
                "package proxy\nauth := {\"position\": \"header\", \"auth\": {\"x\": \"y\"}}";
            let generated = Generated::new(rego, BTreeMap::new(), BTreeMap::new());
            Arc::new(generated.expect("a generator"))
        };
        let (one, other) = (certificate(), certificate());
        let make = |certificate: &Arc<ClientCertificate>, generated| Credential::Certificate {
            certificate: Arc::clone(certificate),
            generated,
        };
        let fingerprints = Fingerprints::new().expect("randomness");
        let first = fingerprints.of(&make(&one, None));
        assert!(first == fingerprints.of(&make(&one, None)));
        assert!(first != fingerprints.of(&make(&other, None)));
        assert!(first != fingerprints.of(&make(&one, Some(generated()))));
    }

    #[test]
    fn another_process_makes_other_fingerprints() {
        let credential = basic("me", "hunter2");
        let (one, other) = (Fingerprints::new(), Fingerprints::new());
        let (one, other) = (one.expect("randomness"), other.expect("randomness"));
        assert!(one.of(&credential) != other.of(&credential));
    }
}
