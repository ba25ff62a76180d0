use connectors::SecretData;
use connectors::condition::ConditionStatus::{self, False, True, Unknown};
use serde_json::{Value, json};

use super::*;
use crate::testing::{basic, class, login, manifest, secret, sound};

const ID: ConnectorId = ConnectorId(1);

fn outcome(spec: &Value, objects: Objects<'_>) -> Outcome {
    reconcile(ID, &manifest("api", spec), objects)
}

/// Status, reason and message of a condition.
fn said(outcome: &Outcome, type_: ConditionType) -> (ConditionStatus, &'static str, &str) {
    let found = outcome.conditions.iter().find(|it| it.type_ == type_);
    let condition = found.expect("every condition is there");
    (condition.status, condition.reason, &condition.message)
}

fn with(spec: &Value, path: &str, value: Value) -> Value {
    let mut spec = spec.clone();
    *spec.pointer_mut(path).expect(path) = value;
    spec
}

fn without(spec: &Value, field: &str) -> Value {
    let mut spec = spec.clone();
    spec.as_object_mut().expect("a mapping").remove(field);
    spec
}

#[test]
fn a_generator_is_tried_with_what_it_would_be_given() {
    use ConditionType::{ConnectorClassReady, Ready, SecretReady};

    let secret = login("hunter2");
    let with_rego = |value: &str| {
        let rego = format!(
            "package proxy\nauth := {{\"position\": \"header\", \"auth\": {{\"x\": {value}}}}}"
        );
        let types = json!([{"name": "basicAuth", "generator": {"rego": rego}}]);
        class("basic", &json!({"auth": {"types": types}}))
    };
    let tried = |value: &str| {
        let class = with_rego(value);
        let objects = Objects {
            class: Some(&class),
            secret: Some(&secret),
            ca_secret: None,
        };
        outcome(&sound(), objects)
    };

    let sound = tried("input.data.password");
    assert_eq!(said(&sound, Ready), (True, "", ""));
    let broken = tried("opa.runtime()");
    let (status, reason, message) = said(&broken, ConnectorClassReady);
    assert_eq!((status, reason), (False, "InvalidConnectorClass"));
    assert!(
        message.contains("ConnectorClass basic") && message.contains("line 2"),
        "{message}"
    );
    let failing = tried("input.data.passwort");
    let (status, reason, message) = said(&failing, SecretReady);
    assert_eq!((status, reason), (False, "InvalidSecret"));
    assert!(
        message.contains("undefined") && !message.contains("hunter2"),
        "{message}"
    );
    assert!(!failing.resolution.is_usable());
    // Endless, but for the limit.
    let digits = "[1,2,3,4,5,6,7,8,9,0]";
    let endless = tried(&format!(
        "sprintf(\"%d\", [count([1 | some a in {digits}; some b in {digits}; some c in {digits}; \
         some d in {digits}; some e in {digits}; some f in {digits}; some g in {digits}; \
         some h in {digits}; some i in {digits}; some j in {digits}])])"
    ));
    let (_, _, message) = said(&endless, SecretReady);
    assert!(message.contains("processor time"), "{message}");
}

#[test]
fn all_objects_there_and_fit_is_ready_without_any_probe() {
    use ConditionType::{CACertReady, ConnectorClassReady, Ready, SecretReady};

    let (class, secret) = (basic(), login("hunter2"));
    let outcome = outcome(
        &sound(),
        Objects {
            class: Some(&class),
            secret: Some(&secret),
            ca_secret: None,
        },
    );
    let order: Vec<ConditionType> = outcome.conditions.iter().map(|it| it.type_).collect();
    assert_eq!(
        order,
        [ConnectorClassReady, SecretReady, CACertReady, Ready]
    );
    assert_eq!(said(&outcome, ConnectorClassReady), (True, "", ""));
    assert_eq!(said(&outcome, SecretReady), (True, "", ""));
    assert_eq!(said(&outcome, CACertReady), (True, "NoCACert", ""));
    assert_eq!(said(&outcome, Ready), (True, "", ""));
    assert!(outcome.resolution.is_usable());
    let connector = outcome.resolution.connector.expect("an address");
    assert!(connector.credential.is_some());
    assert_eq!((connector.id, &*connector.class), (ID, "basic"));
}

#[test]
fn the_class_decides_connector_class_ready() {
    let contradictory = json!({"auth": {"types": [{"name": "a"}, {"name": "a"}]}});
    let contradictory = class("basic", &contradictory);
    let secret = login("hunter2");
    let unnamed = without(&sound(), "connectorClassName");
    for (name, spec, class, reason, message) in [
        (
            "missing",
            sound(),
            None,
            "ConnectorClassNotFound",
            "connectorclasses.connectors.postern.dev \"basic\" not found",
        ),
        (
            "not named",
            unnamed,
            None,
            "ConnectorClassNotFound",
            "spec.connectorClassName: is missing: name a ConnectorClass",
        ),
        (
            "contradictory",
            sound(),
            Some(&contradictory),
            "InvalidConnectorClass",
            "ConnectorClass basic, spec.auth.types[1].name: `a` is given twice: keep one of them",
        ),
    ] {
        let secret = Some(&secret);
        let objects = Objects {
            class,
            secret,
            ca_secret: None,
        };
        let outcome = outcome(&spec, objects);
        let class_ready = said(&outcome, ConditionType::ConnectorClassReady);
        assert_eq!(class_ready, (False, reason, message), "{name}");
        let ready = said(&outcome, ConditionType::Ready);
        let message = "ConnectorClassReady does not hold";
        assert_eq!(ready, (False, reason, message), "{name}");
        assert!(!outcome.resolution.is_usable(), "{name}");
    }
}

#[test]
fn the_secret_decides_secret_ready() {
    let optional = json!([{
        "name": "basicAuth", "secretType": "kubernetes.io/basic-auth", "optional": true
    }]);
    let optional = class("basic", &json!({"auth": {"types": optional}}));
    let basic = basic();
    let good = login("hunter2");
    let newline = login("hunter2\n");
    let other_type = secret("login", "Opaque", &[("password", "hunter2")]);
    let no_password = secret("login", "kubernetes.io/basic-auth", &[("username", "me")]);
    let unnamed = without(&sound(), "auth");
    let foreign = with(
        &sound(),
        "/auth/secretRef",
        json!({"name": "login", "namespace": "theirs"}),
    );
    let unknown_type = with(&sound(), "/auth/name", json!("basic-auth"));
    let cases: &[(&str, &Value, &_, Option<&SecretData>, _, &str, &str)] = &[
        ("there", &sound(), &basic, Some(&good), True, "", ""),
        (
            "missing",
            &sound(),
            &basic,
            None,
            False,
            "SecretNotFound",
            "secrets \"login\" not found",
        ),
        (
            "missing, though the class could do without one",
            &sound(),
            &optional,
            None,
            False,
            "SecretNotFound",
            "secrets \"login\" not found",
        ),
        (
            "not named, and not needed",
            &unnamed,
            &optional,
            None,
            True,
            "SecretOptional",
            "",
        ),
        (
            "not named, but needed",
            &unnamed,
            &basic,
            None,
            False,
            "InvalidSecret",
            "spec.auth.secretRef: is missing: the class does not work without a Secret: name \
             one in this namespace",
        ),
        (
            "of another namespace",
            &foreign,
            &basic,
            None,
            False,
            "InvalidSecret",
            "spec.auth.secretRef.namespace: must be the Connector's own namespace, team: leave \
             it out, and put the Secret there",
        ),
        (
            "of an unknown authentication type",
            &unknown_type,
            &basic,
            Some(&good),
            False,
            "InvalidSecret",
            "spec.auth.name: the class has no authentication type `basic-auth`: use basicAuth",
        ),
        (
            "of the wrong type",
            &sound(),
            &basic,
            Some(&other_type),
            False,
            "InvalidSecret",
            "spec.auth.secretRef.name: the Secret has the type Opaque, but basicAuth of class \
             basic takes kubernetes.io/basic-auth: use a Secret of that type",
        ),
        (
            "without a key",
            &sound(),
            &basic,
            Some(&no_password),
            False,
            "InvalidSecret",
            "Secret team/login, stringData.password: is missing: Connector team/api needs it; \
             add it here or, in base64, to data",
        ),
        (
            "with a value that no header can carry",
            &sound(),
            &basic,
            Some(&newline),
            False,
            "InvalidSecret",
            "Secret team/login, data.password: ends in a newline, which no header can carry: \
             write it without one (`printf %s` instead of `echo`, and in YAML a plain value \
             instead of a `|` block)",
        ),
    ];
    for (name, spec, class, secret, status, reason, message) in cases {
        let objects = Objects {
            class: Some(class),
            secret: *secret,
            ca_secret: None,
        };
        let outcome = outcome(spec, objects);
        let secret_ready = said(&outcome, ConditionType::SecretReady);
        assert_eq!(secret_ready, (*status, *reason, *message), "{name}");
        assert_eq!(said(&outcome, ConditionType::Ready).0, *status, "{name}");
        assert_eq!(outcome.resolution.is_usable(), *status == True, "{name}");
    }
}

#[test]
fn a_secret_is_not_judged_without_a_class_or_an_address() {
    let secret = login("hunter2");
    let basic = basic();
    let message = "not checked, because the class is not usable";
    let no_class = Objects {
        secret: Some(&secret),
        ..Objects::default()
    };
    let missing_class = outcome(&sound(), no_class);
    assert_eq!(
        said(&missing_class, ConditionType::SecretReady),
        (Unknown, "ConnectorClassNotFound", message)
    );
    let all_missing = outcome(&sound(), Objects::default());
    assert_eq!(
        said(&all_missing, ConditionType::SecretReady).1,
        "SecretNotFound"
    );
    let no_address = outcome(
        &without(&sound(), "address"),
        Objects {
            class: Some(&basic),
            ..no_class
        },
    );
    assert_eq!(
        said(&no_address, ConditionType::SecretReady),
        (
            Unknown,
            "InvalidSpec",
            "not checked, because spec.address is not usable"
        )
    );
}

#[test]
fn certificates_decide_ca_cert_ready_and_nothing_else() {
    let named = rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]);
    let pem = named.expect("a certificate").cert.pem();
    let good = secret("ca", "Opaque", &[("ca.crt", &pem)]);
    let broken = secret("ca", "Opaque", &[("ca.crt", "hunter2")]);
    let (class, login) = (basic(), login("hunter2"));
    let mut spec = sound();
    spec["caCertSecretRef"] = json!({"name": "ca"});
    for (name, ca_secret, status, reason, message, roots) in [
        ("valid", Some(&good), True, "Valid", "", 1),
        (
            "missing",
            None,
            False,
            "SecretNotFound",
            "secrets \"ca\" not found",
            0,
        ),
        (
            "without a certificate",
            Some(&broken),
            False,
            "InvalidPEM",
            "Secret team/ca, data.ca.crt: has no PEM certificate in it: add one",
            0,
        ),
    ] {
        let objects = Objects {
            class: Some(&class),
            secret: Some(&login),
            ca_secret,
        };
        let outcome = outcome(&spec, objects);
        let ca_cert_ready = said(&outcome, ConditionType::CACertReady);
        assert_eq!(ca_cert_ready, (status, reason, message), "{name}");
        assert_eq!(said(&outcome, ConditionType::Ready).0, True, "{name}");
        let connector = outcome.resolution.connector.expect("an address");
        assert_eq!(connector.extra_roots.len(), roots, "{name}");
    }
}

#[test]
fn faults_of_other_fields_are_told_by_ready() {
    let (class, secret) = (basic(), login("hunter2"));
    let objects = Objects {
        class: Some(&class),
        secret: Some(&secret),
        ca_secret: None,
    };
    let mut spec = with(&sound(), "/address", json!("api.example.com"));
    spec["params"] = json!([{"name": "x", "value": "y"}]);
    let outcome = outcome(&spec, objects);
    assert_eq!(
        said(&outcome, ConditionType::Ready),
        (
            False,
            "InvalidSpec",
            "spec.address: has no scheme: write https://api.example.com; spec.params[0].name: is \
             not declared by the class, which declares none: remove it"
        )
    );
    assert!(outcome.resolution.connector.is_none());
}

#[test]
fn an_address_is_kept_while_the_connector_is_not_usable() {
    let class = basic();
    for (name, class) in [("no secret", Some(&class)), ("no class", None)] {
        let objects = Objects {
            class,
            ..Objects::default()
        };
        let outcome = outcome(&sound(), objects);
        assert!(!outcome.resolution.is_usable(), "{name}");
        let connector = outcome.resolution.connector.expect("an address");
        assert_eq!(connector.address.host, "api.example.com", "{name}");
        assert!(connector.credential.is_none(), "{name}");
    }
}

#[test]
fn a_foreign_secret_is_not_even_looked_for() {
    let reference = json!({"name": "login", "namespace": "theirs"});
    let foreign = manifest("api", &with(&sound(), "/auth/secretRef", reference));
    assert_eq!(References::of(&foreign).secret, None);
    let own = json!({"name": "login", "namespace": "team"});
    let own = manifest("api", &with(&sound(), "/auth/secretRef", own));
    assert_eq!(References::of(&own).secret, Some("login"));
}

#[test]
fn no_value_of_a_secret_is_ever_told() {
    let class = basic();
    let optional: Vec<Option<SecretData>> = vec![
        None,
        Some(login("hunter2")),
        Some(login("hunter2\n")),
        Some(login("hunter2\u{7}")),
        Some(secret("login", "Opaque", &[("hunter2", "hunter2")])),
        Some(secret(
            "login",
            "kubernetes.io/basic-auth",
            &[("username", "hunter2:"), ("password", "")],
        )),
    ];
    for secret in &optional {
        let objects = Objects {
            class: Some(&class),
            secret: secret.as_ref(),
            ca_secret: secret.as_ref(),
        };
        let mut spec = sound();
        spec["caCertSecretRef"] = json!({"name": "login"});
        let outcome = outcome(&spec, objects);
        let conditions = format!("{:?}", outcome.conditions);
        assert!(!conditions.contains("hunter2"), "{conditions}");
        let connector = format!("{:?}", outcome.resolution.connector);
        assert!(!connector.contains("hunter2"), "{connector}");
    }
}

#[test]
fn a_long_message_is_cut() {
    let message = cut("ä".repeat(MAX_MESSAGE + 1));
    assert_eq!(message.chars().count(), MAX_MESSAGE);
    assert!(message.ends_with('…'));
    assert_eq!(cut("short".to_owned()), "short");
}
