//! Secrets, and the credentials made of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy_common::api::{AuthType, Param, Secret};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::client_certificate::{self, ClientCertificate, TLS};
use super::docker_config;
use super::error::{Findings, Place, Problem, SecretFault};
use super::generator::Generated;
use super::manifest::Placed;
use super::trust::Certificates;
use super::{Address, Credential, Protocol, limits};

/// `type` of a Secret with `username` and `password`.
pub const BASIC_AUTH: &str = "kubernetes.io/basic-auth";
/// `type` of a Secret with `username` and `password` for a registry.
pub const REGISTRY_TOKEN: &str = "cpaas.io/distribution-registry-token";
/// `type` of a Secret with a Docker configuration.
pub const DOCKER_CONFIG: &str = "kubernetes.io/dockerconfigjson";
/// `type` of a Secret with a `token`.
pub const BEARER_TOKEN: &str = "connectors.cpaas.io/bearer-token";
/// `type` of a Secret that names none.
pub const OPAQUE: &str = "Opaque";

/// A Secret with its values decoded. Values are wiped when it is dropped and not shown by
/// `Debug`.
#[derive(Clone)]
pub struct SecretData {
    type_: String,
    values: BTreeMap<String, StoredValue>,
    place: Place,
    /// Made when the first Connector asks for them; all others share them.
    certificates: OnceLock<Certificates>,
}

#[derive(Clone)]
struct StoredValue {
    bytes: Zeroizing<Vec<u8>>,
    /// The field of the manifest it came from.
    origin: &'static str,
}

impl SecretData {
    /// Decodes a Secret; `stringData` wins over `data`.
    pub(super) fn decode(secret: &Placed<Secret>, findings: &mut Findings<'_>) -> Self {
        let mut values = BTreeMap::new();
        for (key, value) in &secret.object.data {
            match decode_base64(value.expose()) {
                Some(bytes) => {
                    values.insert(
                        key.clone(),
                        StoredValue {
                            bytes,
                            origin: "data",
                        },
                    );
                }
                None => {
                    findings.add(
                        format!("data.{key}"),
                        Problem::SecretValue(SecretFault::Base64),
                    );
                }
            }
        }
        for (key, value) in &secret.object.string_data {
            let bytes = Zeroizing::new(value.expose().as_bytes().to_vec());
            values.insert(
                key.clone(),
                StoredValue {
                    bytes,
                    origin: "stringData",
                },
            );
        }
        let type_ = secret
            .object
            .type_
            .clone()
            .unwrap_or_else(|| OPAQUE.to_owned());
        Self {
            type_,
            values,
            place: secret.place.clone(),
            certificates: OnceLock::new(),
        }
    }

    /// A Secret as a cluster has it, with its values decoded.
    pub fn new(
        namespace: &str,
        name: &str,
        type_: Option<String>,
        values: impl IntoIterator<Item = (String, Zeroizing<Vec<u8>>)>,
    ) -> Self {
        let origin = "data";
        Self {
            type_: type_.unwrap_or_else(|| OPAQUE.to_owned()),
            values: values
                .into_iter()
                .map(|(key, bytes)| (key, StoredValue { bytes, origin }))
                .collect(),
            place: Place::of("Secret", namespace, name),
            certificates: OnceLock::new(),
        }
    }

    /// `type` of the Secret.
    pub fn type_(&self) -> &str {
        &self.type_
    }

    /// Its keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Value of a key as it is.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(|value| value.bytes.as_slice())
    }

    /// Value of a key, if it is UTF-8.
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get(key)?).ok()
    }

    /// What it holds in certificates; read once.
    pub(super) fn certificates(&self) -> &Certificates {
        self.certificates.get_or_init(|| Certificates::read(self))
    }

    /// Where the Secret was found.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Path of a key in the manifest, also of one that is not there.
    pub(super) fn field(&self, key: &str) -> String {
        format!(
            "{}.{key}",
            self.values
                .get(key)
                .map_or("stringData", |value| value.origin)
        )
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretData")
            .field("type", &self.type_)
            .field("keys", &self.values.keys())
            .finish_non_exhaustive()
    }
}

/// The name of a Secret that a field gives; `None` means that there is a finding.
pub(super) fn required_name<'a>(
    name: Option<&'a str>,
    field: &str,
    findings: &mut Findings<'_>,
) -> Option<&'a str> {
    let name = name.filter(|name| !name.is_empty());
    if name.is_none() {
        findings.add(field, Problem::MissingFor("name the Secret".to_owned()));
    }
    name
}

/// Standard base64; line breaks in it are ignored, as the API server does.
pub(super) fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Of its final size at once: what it grew out of would not be wiped.
    let mut joined = Zeroizing::new(Vec::with_capacity(text.len()));
    joined.extend(text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')));
    STANDARD.decode(&*joined).ok().map(Zeroizing::new)
}

/// Whether an authentication type takes Secrets of a type, and exactly its own or by the
/// leniency for registries: those take a user and password however it is wrapped.
pub(super) fn accepts(protocol: Protocol, auth_type: &AuthType, secret_type: &str) -> Accepts {
    let own = auth_type.secret_type.as_deref();
    if own.is_none_or(|own| own == secret_type) {
        return Accepts::Exactly;
    }
    let is_registry_type = |type_| matches!(type_, REGISTRY_TOKEN | BASIC_AUTH | DOCKER_CONFIG);
    if protocol == Protocol::Oci
        && own.is_some_and(is_registry_type)
        && is_registry_type(secret_type)
    {
        return Accepts::Leniently;
    }
    Accepts::Not
}

/// Answer of [`accepts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    Exactly,
    Leniently,
    Not,
}

/// Makes the credential of a Connector; `user` names the Connector in errors about the
/// Secret. `None` means that there are findings.
pub(super) fn credential(
    secret: &SecretData,
    auth_type: &AuthType,
    address: &Address,
    user: &str,
    findings: &mut Findings<'_>,
) -> Option<Credential> {
    declared_keys(secret, auth_type, user, findings);
    let mut take = Taker {
        secret,
        user,
        findings,
    };
    match secret.type_() {
        BASIC_AUTH | REGISTRY_TOKEN => {
            let username = take.value("username", check_username);
            let password = take.value("password", check_password);
            Some(Credential::Basic {
                username: username?,
                password: password?,
            })
        }
        BEARER_TOKEN => Some(Credential::Bearer {
            token: take.value("token", check_token)?,
        }),
        DOCKER_CONFIG => {
            let key = docker_config::KEY;
            let Some(bytes) = secret.get(key) else {
                missing(secret, key, user, findings);
                return None;
            };
            match docker_config::credential(bytes, address) {
                Ok(credential) => Some(credential),
                Err(problem) => {
                    findings.add_at(secret.place.clone(), secret.field(key), problem);
                    None
                }
            }
        }
        TLS => Some(Credential::Certificate {
            certificate: certificate(secret, user, findings)?,
            generated: None,
        }),
        _ => {
            findings.add(
                "spec.auth",
                Problem::Unsupported {
                    what: format!(
                        "authentication type {} without a built-in rule",
                        auth_type.name
                    ),
                    instead: "use a class whose secretType is kubernetes.io/basic-auth, \
                          connectors.cpaas.io/bearer-token or kubernetes.io/tls",
                },
            );
            None
        }
    }
}

/// The credential that a generator makes of a Secret and of parameters; `None` means that
/// there are findings, here or at the class.
pub(super) fn generated(
    secret: &SecretData,
    auth_type: &AuthType,
    rego: &str,
    params: &[Param],
    user: &str,
    findings: &mut Findings<'_>,
) -> Option<Credential> {
    let mut sound = declared_keys(secret, auth_type, user, findings);
    let defaults = auth_type.params.iter().filter_map(|param| {
        let default = param.default.as_ref()?.as_str()?;
        Some((param.name.clone(), SecretString::from(default)))
    });
    let mut data: BTreeMap<String, SecretString> = defaults.collect();
    let is_private =
        |key: &&str| secret.type_() == TLS && *key == client_certificate::PRIVATE_KEY_KEY;
    for key in secret.keys().filter(|key| !is_private(key)) {
        if let Some(text) = secret.text(key) {
            data.insert(key.to_owned(), text.into());
        } else {
            let (place, field) = (secret.place.clone(), secret.field(key));
            findings.add_at(place, field, Problem::SecretValue(SecretFault::NotUtf8));
            sound = false;
        }
    }
    let text = |param: &Param| Some((param.name.clone(), param.value.as_str()?.to_owned()));
    let params = params.iter().filter_map(text).collect();
    let certificate = match secret.type_() {
        TLS => Some(certificate(secret, user, findings)?),
        _ => None,
    };
    if !sound {
        return None;
    }
    match Generated::new(rego, data, params) {
        Ok(generated) => {
            let generated = Arc::new(generated);
            Some(match certificate {
                Some(certificate) => Credential::Certificate {
                    certificate,
                    generated: Some(generated),
                },
                None => Credential::Generated(generated),
            })
        }
        // Said of the class.
        Err(error) if error.is_of_module() => None,
        Err(error) => {
            let name = &auth_type.name;
            let problem = format!("the generator of {name}, given this Secret, {error}");
            findings.add(super::auth::SECRET_FIELD, Problem::Rule(problem));
            None
        }
    }
}

/// The certificate in a Secret, and its key; `None` means that there are findings.
fn certificate(
    secret: &SecretData,
    user: &str,
    findings: &mut Findings<'_>,
) -> Option<Arc<ClientCertificate>> {
    let mut value = |key| {
        let value = secret.get(key);
        if value.is_none() {
            missing(secret, key, user, findings);
        }
        value
    };
    let (chain, key) = (
        value(client_certificate::CERTIFICATE_KEY),
        value(client_certificate::PRIVATE_KEY_KEY),
    );
    match ClientCertificate::from_pem(chain?, key?) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(fault) => {
            let field = secret.field(fault.key());
            findings.add_at(secret.place.clone(), field, Problem::Certificate(fault));
            None
        }
    }
}

/// Whether a Secret has every key that the class declares without a default.
fn declared_keys(
    secret: &SecretData,
    auth_type: &AuthType,
    user: &str,
    findings: &mut Findings<'_>,
) -> bool {
    let params = auth_type.params.iter();
    let absent = params
        .filter(|param| param.default.is_none() && secret.get(&param.name).is_none())
        .inspect(|param| missing(secret, &param.name, user, findings));
    absent.count() == 0
}

fn missing(secret: &SecretData, key: &str, user: &str, findings: &mut Findings<'_>) {
    findings.add_at(
        secret.place.clone(),
        secret.field(key),
        Problem::MissingFor(format!(
            "{user} needs it; add it here or, in base64, to data"
        )),
    );
}

/// Takes values out of a Secret.
struct Taker<'a, 'b> {
    secret: &'a SecretData,
    user: &'a str,
    findings: &'a mut Findings<'b>,
}

impl Taker<'_, '_> {
    fn value(&mut self, key: &str, check: Check) -> Option<SecretString> {
        let Some(bytes) = self.secret.get(key) else {
            missing(self.secret, key, self.user, self.findings);
            return None;
        };
        match std::str::from_utf8(bytes)
            .map_err(|_| SecretFault::NotUtf8)
            .and_then(|text| {
                check(text)?;
                Ok(SecretString::from(text))
            }) {
            Ok(value) => Some(value),
            Err(fault) => {
                let place = self.secret.place.clone();
                self.findings
                    .add_at(place, self.secret.field(key), Problem::SecretValue(fault));
                None
            }
        }
    }
}

type Check = fn(&str) -> Result<(), SecretFault>;

/// RFC 7617's user-id; an empty one is common beside a token.
pub(super) fn check_username(text: &str) -> Result<(), SecretFault> {
    check_characters(text)?;
    if text.contains(':') {
        Err(SecretFault::Colon)
    } else {
        Ok(())
    }
}

/// RFC 7617's password.
pub(super) fn check_password(text: &str) -> Result<(), SecretFault> {
    check_characters(text)?;
    if text.is_empty() {
        Err(SecretFault::Empty)
    } else {
        Ok(())
    }
}

/// RFC 6750's token, and anything else that is printed without spaces.
pub(super) fn check_token(text: &str) -> Result<(), SecretFault> {
    check_password(text)?;
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(SecretFault::TokenCharacter)
    }
}

fn check_characters(text: &str) -> Result<(), SecretFault> {
    if text.len() > limits::CREDENTIAL {
        Err(SecretFault::TooLong)
    } else if text.ends_with('\n') {
        Err(SecretFault::TrailingNewline)
    } else if text.chars().any(char::is_control) {
        Err(SecretFault::ControlCharacter)
    } else {
        Ok(())
    }
}
