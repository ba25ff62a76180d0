//! Every field of the schema is read, and written back as it was.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn assert_round_trip<T: DeserializeOwned + Serialize>(object: &Value) {
    let read: T = serde_json::from_value(object.clone()).expect("fits the schema");
    assert_eq!(
        &serde_json::to_value(&read).expect("can be written"),
        object
    );
}

fn param_spec(name: &str) -> Value {
    json!({
        "name": name, "type": "object", "description": "d", "default": {"a": [1]},
        "enum": ["x"], "properties": {"a": {"type": "array"}}, "annotations": {"k": "v"}
    })
}

#[test]
fn a_connector_with_every_field() {
    assert_round_trip::<Connector>(&json!({
        "apiVersion": API_VERSION,
        "kind": "Connector",
        "metadata": {
            "name": "n", "generateName": "n-", "namespace": "ns", "labels": {"a": "b"},
            "annotations": {"a": "b"}, "uid": "u", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T03:04:05Z",
            "deletionGracePeriodSeconds": 0, "finalizers": ["f"], "selfLink": "/x",
            "ownerReferences": [{"uid": "u"}], "managedFields": [{"manager": "kubectl"}]
        },
        "spec": {
            "connectorClassName": "c",
            "address": "https://a.example.com",
            "addressExtensions": [{"name": "api", "value": "https://b.example.com"}],
            "auth": {
                "name": "basicAuth",
                "secretRef": {
                    "apiVersion": "v1", "kind": "Secret", "namespace": "ns", "name": "s",
                    "uid": "u", "resourceVersion": "1", "fieldPath": "data"
                },
                "params": [{"name": "repository", "value": "a/b"}]
            },
            "caCertSecretRef": {"name": "ca"},
            "params": [{"name": "p", "value": {"any": ["json"]}}],
            "interception": {
                "mode": "Transparent", "failurePolicy": "Open", "clientAuthorization": "Keep",
                "egress": "Pod", "onUntrustedCA": "Passthrough"
            }
        },
        "status": {
            "annotations": {"a": "b"},
            "observedGeneration": 1,
            "conditions": [{
                "type": "Ready", "status": "Unknown", "reason": "r", "message": "m",
                "severity": "Info", "lastTransitionTime": "2026-01-02T03:04:05Z"
            }],
            "proxy": {"httpAddress": {"name": "n", "url": "u", "CACerts": "pem", "audience": "a"}},
            "api": {"path": "/p"}
        }
    }));
}

#[test]
fn a_class_with_every_field() {
    let reference = json!({
        "kind": "Service", "name": "n", "namespace": "ns", "apiVersion": "v1", "group": "g",
        "address": "a"
    });
    let probe = json!({
        "http": {
            "path": "/", "host": "h", "scheme": "https", "method": "POST", "disableRedirect": true,
            "httpHeaders": [{"name": "a", "value": "b"}, {"name": "a", "value": "c"}],
            "response": {"cel": "true"}
        },
        "api": {"path": "/p"}
    });
    assert_round_trip::<ConnectorClass>(&json!({
        "apiVersion": API_VERSION,
        "kind": "ConnectorClass",
        "metadata": {"name": "c"},
        "spec": {
            "protocol": "OCI",
            "address": param_spec("address"),
            "addressExtensions": [param_spec("api")],
            "params": [param_spec("p")],
            "auth": {"types": [{
                "name": "a", "displayName": "A", "description": "d", "annotations": {"k": "v"},
                "secretType": "Opaque", "optional": true, "params": [param_spec("token")],
                "generator": {"rego": "package proxy"}
            }]},
            "livenessProbe": probe,
            "authProbes": [{"authName": "a", "params": [param_spec("p")], "probe": probe}],
            "configurations": [{
                "name": "c", "annotations": {"k": "v"}, "data": {".file": "x"},
                "params": [param_spec("p")]
            }],
            "proxy": {
                "ref": reference, "uri": "/u", "CACerts": "pem", "audience": "a",
                "authExtractor": {"rego": "package proxy"}
            },
            "api": {
                "ref": reference, "uri": "/u", "CACerts": "pem", "audience": "a",
                "openapi": {"openapi": "3.0.0"}, "permissions": {"rego": "package permissions"}
            }
        },
        "status": {
            "annotations": {"a": "b"}, "observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}],
            "api": {"address": {"url": "u"}}, "proxy": {"httpAddress": {"url": "u"}}
        }
    }));
}

#[test]
fn a_secret_with_every_field_shows_no_value() {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "annotations": {"last": "hunter2"}},
        "type": "Opaque",
        "data": {"a": "hunter2"},
        "stringData": {"b": "hunter2"},
        "immutable": true
    });
    assert_round_trip::<Secret>(&secret);
    let read: Secret = serde_json::from_value(secret).expect("fits the schema");
    assert_eq!(read.data["a"].expose(), "hunter2");
    let shown = format!("{read:?} {read:#?}");
    assert!(
        shown.contains("Opaque") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    for (pointer, field) in [
        ("", "x"),
        ("/metadata", "x"),
        ("/spec", "Address"),
        ("/spec/auth", "secretref"),
        ("/spec/auth/secretRef", "x"),
        ("/spec/params/0", "x"),
        ("/spec/interception", "x"),
    ] {
        let mut object = json!({
            "apiVersion": API_VERSION,
            "kind": "Connector",
            "metadata": {"name": "n"},
            "spec": {
                "auth": {"secretRef": {}}, "params": [{"name": "p", "value": "v"}],
                "interception": {}
            }
        });
        assert!(serde_json::from_value::<Connector>(object.clone()).is_ok());
        object.pointer_mut(pointer).expect(pointer)[field] = json!({});
        let error = serde_json::from_value::<Connector>(object)
            .expect_err(pointer)
            .to_string();
        assert!(
            error.starts_with(&format!("unknown field `{field}`")),
            "{error}"
        );
    }
}
