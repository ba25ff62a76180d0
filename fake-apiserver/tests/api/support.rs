//! A client that does no more than it is told.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use fake_apiserver::{Options, Server};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) async fn server() -> Server {
    Server::start(Options::default()).await.unwrap()
}

/// Sends a request with further headers and returns the answer's head.
pub(crate) async fn open(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> http::Response<Incoming> {
    let socket = TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "test")
        .header("user-agent", "raw/1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    tokio::time::timeout(LIMIT, sender.send_request(request))
        .await
        .unwrap()
        .unwrap()
}

pub(crate) async fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Response {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let response = open(server, method, path, headers, bytes).await;
    let (parts, body) = response.into_parts();
    let bytes = tokio::time::timeout(LIMIT, body.collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Response {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

pub(crate) async fn get(server: &Server, path: &str) -> Response {
    send(server, "GET", path, &[], &Value::Null).await
}

pub(crate) async fn post(server: &Server, path: &str, body: &Value) -> Response {
    send(server, "POST", path, &[], body).await
}

pub(crate) async fn put(server: &Server, path: &str, body: &Value) -> Response {
    send(server, "PUT", path, &[], body).await
}

pub(crate) async fn patch(server: &Server, path: &str, media: &str, body: &Value) -> Response {
    send(server, "PATCH", path, &[("content-type", media)], body).await
}

pub(crate) async fn delete(server: &Server, path: &str) -> Response {
    send(server, "DELETE", path, &[], &Value::Null).await
}

/// Applies a configuration as a field manager.
pub(crate) async fn apply(
    server: &Server,
    path: &str,
    manager: &str,
    force: bool,
    body: &Value,
) -> Response {
    patch(
        server,
        &format!("{path}?fieldManager={manager}&force={force}"),
        APPLY,
        body,
    )
    .await
}

/// A running watch, line by line.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(server: &Server, path: &str) -> Self {
        let response = open(server, "GET", path, &[], Vec::new()).await;
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    /// The next event, or none at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame())
                .await
                .expect("no event within the limit")?
                .ok()?;
            self.buffer.extend_from_slice(frame.data_ref()?);
        }
    }

    /// The next event that is no bookmark, as its type and the object's name.
    pub(crate) async fn change(&mut self) -> Option<(String, String)> {
        loop {
            let event = self.next().await?;
            if event["type"] != "BOOKMARK" {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Some((
                    text(&event["type"]),
                    text(&event["object"]["metadata"]["name"]),
                ));
            }
        }
    }
}

/// Runs kubectl, with a manifest as its input.
pub(crate) async fn kubectl(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut command = server.kubectl();
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("kubectl has to be installed");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

/// Runs kubectl, which has to succeed, and returns what it prints.
pub(crate) async fn kubectl_ok(server: &Server, arguments: &[&str], input: &str) -> String {
    let output = kubectl(server, arguments, input).await;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "kubectl {arguments:?}: {out}{err}");
    assert!(
        !err.contains("couldn't get current server API group list"),
        "{err}"
    );
    out.into_owned()
}

/// A definition with a status, columns, defaults, an enumeration and a keyed list.
pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.test"},
        "spec": {
            "group": "example.test", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Host", "type": "string", "jsonPath": ".spec.host"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["host"], "properties": {
                        "host": {"type": "string", "pattern": "^[a-z.]+$"},
                        "mode": {"type": "string", "enum": ["Open", "Closed"], "default": "Closed"},
                        "size": {"type": "integer", "minimum": 1, "maximum": 9},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                    "status": {"type": "object", "properties": {
                        "conditions": {
                            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                            "items": {"type": "object", "required": ["type", "status"], "properties": {
                                "type": {"type": "string"}, "status": {"type": "string"},
                                "reason": {"type": "string"}, "message": {"type": "string"},
                            }},
                        },
                        "count": {"type": "integer"},
                    }},
                }}},
            }],
        },
    })
}

pub(crate) fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"host": "a.test"}})
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(crate) const WIDGETS: &str = "/apis/example.test/v1/namespaces/default/widgets";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) async fn server_with_widgets() -> Server {
    let server = server().await;
    assert_eq!(post(&server, CRDS, &definition()).await.status, 201);
    server
}

/// Asserts the status and reason of a refusal.
pub(crate) fn refused(response: &Response, code: u16, reason: &str) {
    assert_eq!(
        (
            response.status,
            response.body["reason"].as_str().unwrap_or_default()
        ),
        (code, reason),
        "{}",
        response.body
    );
    assert_eq!(response.body["kind"], "Status");
    assert_eq!(response.body["code"], code);
}

/// An object's resourceVersion, as a number.
pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
