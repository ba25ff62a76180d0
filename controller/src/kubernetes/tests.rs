use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::client::Body;
use proxy_common::api::{API_VERSION, ConnectorStatus};
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::grants::Review;
use crate::model::Key;

/// Requests as method, path and body.
type Requests = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A client whose every request is answered with this.
fn client(status: StatusCode, answer: &'static str) -> (Client, Requests) {
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let service = service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let request = (parts.method.to_string(), parts.uri.to_string(), body);
            seen.lock().expect("no panic").push(request);
            let mut response = Response::new(Full::new(Bytes::from_static(answer.as_bytes())));
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    (Client::new(service, "default"), requests)
}

fn only(requests: &Requests) -> (String, String, Value) {
    let requests = requests.lock().expect("no panic");
    assert_eq!(requests.len(), 1);
    requests[0].clone()
}

fn review(connector: Option<&str>) -> Review {
    Review {
        namespace: "team".to_owned(),
        service_account: "builder".to_owned(),
        connector: connector.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_status_is_applied_to_the_object_it_was_made_for() {
    const ANSWER: &str = r#"{"apiVersion": "connectors.postern.dev/v1alpha1", "kind": "Connector",
        "metadata": {"name": "api", "uid": "the-uid", "resourceVersion": "8"},
        "spec": {"novelty": 1}}"#;
    let (client, requests) = client(StatusCode::OK, ANSWER);
    let status = ConnectorStatus {
        observed_generation: Some(3),
        ..ConnectorStatus::default()
    };
    let version = |resource_version: &str| ObjectVersion {
        uid: "the-uid".to_owned(),
        resource_version: resource_version.to_owned(),
    };
    let key = Key::new("team", "api");
    let written = write_status(&client, &key, &version("7"), &status).await;
    assert_eq!(written.expect("written"), version("8"));
    let (method, path, body) = only(&requests);
    assert_eq!(method, "PATCH");
    assert_eq!(
        path,
        "/apis/connectors.postern.dev/v1alpha1/namespaces/team/connectors/api/status?&force=true&\
         fieldManager=postern-controller"
    );
    let expected = json!({
        "apiVersion": API_VERSION,
        "kind": "Connector",
        "metadata": {
            "namespace": "team", "name": "api", "uid": "the-uid", "resourceVersion": "7"
        },
        "status": {"observedGeneration": 3},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_review_asks_for_the_service_account_and_the_subresource() {
    let (client, requests) = client(
        StatusCode::CREATED,
        r#"{"spec": {}, "status": {"allowed": true}}"#,
    );
    assert!(ask(&client, &review(Some("api"))).await.expect("an answer"));
    let (method, path, body) = only(&requests);
    assert_eq!(method, "POST");
    assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews?");
    let expected = json!({
        "user": "system:serviceaccount:team:builder",
        "groups": [
            "system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"
        ],
        "resourceAttributes": {
            "group": "connectors.postern.dev", "resource": "connectors", "subresource": "proxy",
            "verb": "get", "namespace": "team", "name": "api"
        },
    });
    assert_eq!(body["spec"], expected);
}

#[tokio::test]
async fn an_answer_that_is_no_clear_yes_is_a_no() {
    for answer in [
        r#"{"spec": {}}"#,
        r#"{"spec": {}, "status": {"allowed": false}}"#,
        r#"{"spec": {}, "status": {"allowed": true, "denied": true}}"#,
    ] {
        let (client, _) = client(StatusCode::CREATED, answer);
        assert!(!ask(&client, &review(None)).await.expect(answer));
    }
}

#[tokio::test]
async fn a_secret_is_read_with_its_version() {
    let (client, requests) = client(
        StatusCode::OK,
        r#"{"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": "team", "name": "login", "uid": "u", "resourceVersion": "7"},
            "type": "kubernetes.io/basic-auth", "data": {"password": "aHVudGVyMg=="}}"#,
    );
    let secret = fetch_secret(&client, &Key::new("team", "login")).await;
    let secret = secret.expect("an answer").expect("a Secret");
    assert_eq!(only(&requests).1, "/api/v1/namespaces/team/secrets/login");
    assert_eq!((&*secret.uid, &*secret.resource_version), ("u", "7"));
    assert_eq!(secret.data.type_(), "kubernetes.io/basic-auth");
    assert_eq!(secret.data.text("password"), Some("hunter2"));
    assert!(!format!("{secret:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_no_error() {
    const ANSWER: &str = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "secrets \"login\" not found", "reason": "NotFound", "code": 404}"#;
    let (client, _) = client(StatusCode::NOT_FOUND, ANSWER);
    let secret = fetch_secret(&client, &Key::new("team", "login")).await;
    assert!(secret.expect("an answer").is_none());
}

#[tokio::test]
async fn an_answer_that_is_no_secret_is_not_repeated() {
    let answer = r#"{"data": {"password": "hunter2, which is no base64"}}"#;
    let (client, _) = client(StatusCode::OK, answer);
    let error = fetch_secret(&client, &Key::new("team", "login")).await;
    let error = error.expect_err("no Secret");
    assert!(matches!(error, FetchError::NotASecret));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn a_pod_counts_from_its_node_to_its_end() {
    let object = |node: Value, phase: &str| -> Pod {
        let object = json!({
            "metadata": {"uid": "u", "namespace": "team", "name": "p"},
            "spec": {"nodeName": node, "serviceAccountName": "builder", "hostNetwork": true,
                     "containers": []},
            "status": {"phase": phase, "podIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]},
        });
        serde_json::from_value(object).expect("a Pod")
    };
    for (node, phase, counts) in [
        (json!("node-1"), "Pending", true),
        (json!("node-1"), "Running", true),
        (json!("node-1"), "Succeeded", false),
        (json!("node-1"), "Failed", false),
        (Value::Null, "Pending", false),
    ] {
        let pod = pod(object(node, phase));
        assert_eq!(pod.is_some(), counts, "{phase}");
        if let Some((node, pod)) = pod {
            assert_eq!(node, "node-1");
            assert_eq!((&*pod.uid, &*pod.service_account), ("u", "builder"));
            assert_eq!(pod.ips, ["192.0.2.1", "2001:db8::1"]);
            assert!(pod.host_network);
        }
    }
}

#[test]
fn a_connector_keeps_what_decisions_need() {
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "Connector",
        "metadata": {
            "namespace": "team", "name": "api", "uid": "u", "generation": 2,
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"
            },
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"address": "https://api.example.com"},
        "status": {"observedGeneration": 1},
    });
    let object: WatchedConnector = serde_json::from_value(object).expect("a Connector");
    let (connector, fault) = connector(object);
    assert_eq!(fault, None);
    assert_eq!(
        connector.spec.address.as_deref(),
        Some("https://api.example.com")
    );
    assert_eq!(connector.metadata.generation, Some(2));
    assert!(connector.metadata.annotations.keys().eq(["note"]));
    assert!(connector.metadata.managed_fields.is_empty());
    let status = connector.status.expect("a status");
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn a_connector_that_cannot_be_read_says_which_field_it_is() {
    for (spec, expected) in [
        (json!({"novelty": "hunter2"}), "unknown field `novelty`"),
        (
            json!({"interception": {"novelty": "hunter2"}}),
            "spec.interception.novelty: unknown field `novelty`",
        ),
        (
            json!({"address": ["hunter2"]}),
            "spec.address: is not of the type that this version expects",
        ),
    ] {
        let object = json!({"metadata": {"namespace": "team", "name": "api"}, "spec": spec});
        let object: WatchedConnector = serde_json::from_value(object).expect("a Connector");
        let fault = connector(object).1.expect("a fault");
        assert!(fault.contains(expected), "{fault}");
        assert!(!fault.contains("hunter2"), "{fault}");
    }
}

#[test]
fn what_a_status_holds_besides_does_not_matter() {
    let object = json!({
        "metadata": {"namespace": "team", "name": "api"},
        "spec": {},
        "status": {
            "novelty": 1,
            "observedGeneration": 4,
            "conditions": [
                {"type": "Ready", "status": "True", "novelty": [2], "lastTransitionTime": "t"},
                {"type": "Other", "status": "Perhaps"},
            ],
        },
    });
    let object: WatchedConnector = serde_json::from_value(object).expect("a Connector");
    let (connector, fault) = connector(object);
    assert_eq!(fault, None);
    let status = connector.status.expect("a status");
    assert_eq!(status.observed_generation, Some(4));
    let [ready] = &status.conditions[..] else {
        panic!("one condition");
    };
    assert_eq!(ready.last_transition_time.as_deref(), Some("t"));
}

#[test]
fn a_secret_without_a_type_is_opaque() {
    let object: Secret = serde_json::from_value(json!({
        "metadata": {"namespace": "team", "name": "login"}
    }))
    .expect("a Secret");
    let (key, held) = secret(object);
    assert_eq!(key, Key::new("team", "login"));
    assert_eq!(held.data.type_(), "Opaque");
}
