//! Objects for tests.

use std::sync::Arc;

use connectors::SecretData;
use proxy_common::api::{self, API_VERSION};
use serde_json::{Value, json};

/// A Connector of namespace `team`.
pub(crate) fn manifest(name: &str, spec: &Value) -> api::Connector {
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "Connector",
        "metadata": {"namespace": "team", "name": name, "uid": format!("uid-of-{name}")},
        "spec": spec,
    });
    serde_json::from_value(object).expect("a Connector")
}

/// `spec` of a Connector of class `basic` with the Secret `login`.
pub(crate) fn sound() -> Value {
    json!({
        "connectorClassName": "basic",
        "address": "https://api.example.com",
        "auth": {"name": "basicAuth", "secretRef": {"name": "login"}},
    })
}

/// A class.
pub(crate) fn class(name: &str, spec: &Value) -> Arc<api::ConnectorClass> {
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "ConnectorClass",
        "metadata": {"name": name},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).expect("a ConnectorClass"))
}

/// The class `basic`: user and password, nothing else.
pub(crate) fn basic() -> Arc<api::ConnectorClass> {
    let types = json!([{"name": "basicAuth", "secretType": "kubernetes.io/basic-auth"}]);
    class("basic", &json!({"auth": {"types": types}}))
}

/// A Secret of namespace `team`.
pub(crate) fn secret(name: &str, type_: &str, values: &[(&str, &str)]) -> SecretData {
    let values = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec().into()));
    SecretData::new("team", name, Some(type_.to_owned()), values)
}

/// The Secret `login`, as the class `basic` wants it.
pub(crate) fn login(password: &str) -> SecretData {
    let values = [("username", "me"), ("password", password)];
    secret("login", "kubernetes.io/basic-auth", &values)
}

/// The class `mutual`: a certificate, nothing else.
pub(crate) fn mutual() -> Arc<api::ConnectorClass> {
    let types = json!([{"name": "certificate", "secretType": connectors::TLS}]);
    class("mutual", &json!({"auth": {"types": types}}))
}

/// `spec` of a Connector of class `mutual` with the Secret `pair`.
pub(crate) fn identified() -> Value {
    json!({
        "connectorClassName": "mutual",
        "address": "https://api.example.com",
        "auth": {"secretRef": {"name": "pair"}},
    })
}

/// The Secret `pair`, with a new key and a certificate that is valid between these times, in
/// seconds since 1970.
pub(crate) fn pair(valid: std::ops::Range<i64>) -> SecretData {
    let time = |at| time::OffsetDateTime::from_unix_timestamp(at).expect("a time");
    let mut params = rcgen::CertificateParams::default();
    (params.not_before, params.not_after) = (time(valid.start), time(valid.end));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let values = [
        ("tls.crt", &*certificate),
        ("tls.key", &*key.serialize_pem()),
    ];
    secret("pair", connectors::TLS, &values)
}
