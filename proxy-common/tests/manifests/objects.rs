//! Every class and sample is read by the types, of files and of clusters, fits the schema,
//! and is written back as it was.

use std::fmt::Debug;

use proxy_common::api::{self, cluster};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{files, schema};

fn assert_round_trip<T: Debug + DeserializeOwned + Serialize>(object: &Value) {
    let name = &object["metadata"]["name"];
    let read: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{name} is no object of its kind: {error}"));
    let written = serde_json::to_value(&read).expect("it can be written");
    assert_eq!(&written, object, "{name}");
}

/// Checks an object of ours; returns whether it is one.
fn check(object: &Value) -> bool {
    match object["kind"].as_str() {
        Some("Connector") => {
            assert_round_trip::<api::Connector>(object);
            assert_round_trip::<cluster::Connector>(object);
        }
        Some("ConnectorClass") => {
            assert_round_trip::<api::ConnectorClass>(object);
            assert_round_trip::<cluster::ConnectorClass>(object);
        }
        Some("Secret") => {
            assert_round_trip::<api::Secret>(object);
            return true;
        }
        _ => return false,
    }
    let schema = schema::of(object["kind"].as_str().unwrap_or_default());
    assert_eq!(schema::faults(&schema, object), [""; 0]);
    assert_eq!(object["apiVersion"], api::API_VERSION);
    true
}

#[test]
fn classes() {
    let classes = files::objects("classes");
    assert!(classes.iter().all(check));
    for class in &classes {
        assert_eq!(class["kind"], "ConnectorClass");
    }
}

#[test]
fn samples() {
    let samples = files::objects("samples");
    let ours = samples.iter().filter(|it| check(it)).count();
    let others = samples.iter().filter(|it| it["kind"] == "RoleBinding");
    assert_eq!(ours + others.count(), samples.len());
    let classes = files::objects("classes");
    for connector in samples.iter().filter(|it| it["kind"] == "Connector") {
        let class = &connector["spec"]["connectorClassName"];
        assert!(
            classes.iter().any(|it| it["metadata"]["name"] == *class),
            "{class} is no class of ours"
        );
    }
}

#[test]
fn what_the_schema_refuses() {
    let object = &files::objects("samples")
        .into_iter()
        .find(|it| it["kind"] == "Connector" && it["spec"]["interception"].is_object())
        .expect("a sample with an interception");
    for (pointer, field, value, fault) in [
        ("", "x", Value::Null, ".x: unknown"),
        ("/spec", "Address", "x".into(), ".spec.Address: unknown"),
        ("/spec", "address", 1.into(), ".spec.address: 1 is no"),
        (
            "/spec/interception",
            "mode",
            "x".into(),
            r#".spec.interception.mode: "x" is not allowed"#,
        ),
    ] {
        let mut object = object.clone();
        object.pointer_mut(pointer).expect(pointer)[field] = value;
        let faults = schema::faults(&schema::of("Connector"), &object);
        assert!(
            faults.len() == 1 && faults[0].starts_with(fault),
            "{faults:?}"
        );
        assert!(serde_json::from_value::<api::Connector>(object).is_err());
    }
}
