//! The real kubectl.

use fake_apiserver::{Identity, Options, Server, Token};
use serde_json::json;

use crate::support::*;

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: one, image: one:1, env: [{name: A, value: a}, {name: B, value: b}], ports: [{containerPort: 80}]}
      - {name: two, image: two:1}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hidden}
";

#[tokio::test]
async fn kubectl_applies_gets_and_deletes() {
    let server = server().await;
    kubectl_ok(&server, &["apply", "-f", "-"], &definition().to_string()).await;
    kubectl_ok(
        &server,
        &[
            "wait",
            "--for=condition=Established",
            "crd/widgets.example.test",
            "--timeout=20s",
        ],
        "",
    )
    .await;
    kubectl_ok(&server, &["apply", "-f", "-"], &widget("a").to_string()).await;
    let table = kubectl_ok(&server, &["get", "widgets"], "").await;
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["NAME", "HOST", "READY", "AGE"], "{table}");
    assert!(
        table.lines().nth(1).unwrap().starts_with("a      a.test"),
        "{table}"
    );
    let output = kubectl_ok(
        &server,
        &["get", "wd", "a", "-o", "jsonpath={.spec.mode}"],
        "",
    )
    .await;
    assert_eq!(output, "Closed");

    kubectl_ok(&server, &["apply", "-f", "-"], DEPLOYMENT).await;
    let again = kubectl_ok(&server, &["apply", "-f", "-"], DEPLOYMENT).await;
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");
    // A strategic merge patch: one variable and one container go, the others stay.
    let changed = DEPLOYMENT
        .replace("{name: A, value: a}, ", "")
        .replace("      - {name: two, image: two:1}\n", "");
    kubectl_ok(&server, &["apply", "-f", "-"], &changed).await;
    let containers = server
        .handle()
        .object("apps/v1", "deployments", "default", "web")
        .unwrap()["spec"]["template"]["spec"]["containers"]
        .clone();
    assert_eq!(containers.as_array().unwrap().len(), 1);
    assert_eq!(containers[0]["env"], json!([{"name": "B", "value": "b"}]));
    assert_eq!(containers[0]["ports"][0]["containerPort"], 80);

    kubectl_ok(&server, &["delete", "-f", "-"], DEPLOYMENT).await;
    kubectl_ok(&server, &["delete", "widget", "a", "--timeout=20s"], "").await;
    assert!(
        server
            .handle()
            .objects("example.test/v1", "widgets", "")
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn kubectl_meets_conflicts_between_field_managers() {
    let server = server().await;
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": value}}).to_string()
    };
    let arguments = |manager: &'static str| {
        [
            "apply",
            "--server-side",
            "--field-manager",
            manager,
            "-f",
            "-",
        ]
    };
    kubectl_ok(&server, &arguments("one"), &map("1")).await;
    kubectl_ok(&server, &arguments("one"), &map("2")).await;
    let output = kubectl(&server, &arguments("two"), &map("3")).await;
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("conflict with \"one\": .data.k"),
        "{message}"
    );
    let mut forced = arguments("two").to_vec();
    forced.push("--force-conflicts");
    kubectl_ok(&server, &forced, &map("3")).await;
    kubectl_ok(&server, &["apply", "-f", "-"], &map("3")).await;
    kubectl_ok(
        &server,
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        &map("4"),
    )
    .await;
    assert_eq!(
        server
            .handle()
            .object("v1", "configmaps", "default", "m")
            .unwrap()["data"]["k"],
        "4"
    );
}

#[tokio::test]
async fn kubectl_waits_for_a_condition() {
    let server = server_with_widgets().await;
    post(&server, WIDGETS, &widget("a")).await;
    let waiting = kubectl_ok(
        &server,
        &["wait", "--for=condition=Ready", "widget/a", "--timeout=25s"],
        "",
    );
    let setting = async {
        // Once kubectl watches, the condition comes.
        while !server
            .handle()
            .requests()
            .iter()
            .any(|request| request.verb == "watch")
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        patch(&server, &format!("{WIDGETS}/a/status"), MERGE, &status).await
    };
    let (waited, set) = tokio::join!(waiting, setting);
    assert_eq!(set.status, 200);
    assert!(waited.contains("condition met"), "{waited}");
}

#[tokio::test]
async fn kubectl_refuses_unknown_fields_and_shows_what_is_invalid() {
    let server = server_with_widgets().await;
    let mut bad = widget("a");
    bad["spec"]["hots"] = json!("a.test");
    let output = kubectl(&server, &["apply", "-f", "-"], &bad.to_string()).await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("unknown field \"spec.hots\""),
        "{output:?}"
    );
    let mut bad = widget("a");
    bad["spec"]["mode"] = json!("Ajar");
    let output = kubectl(&server, &["apply", "-f", "-"], &bad.to_string()).await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("Unsupported value: \"Ajar\""),
        "{output:?}"
    );
}

#[tokio::test]
async fn kubectl_is_who_its_token_says_over_tls() {
    let token = Token::new(Identity::service_account("default", "robot"));
    let options = Options {
        tls: true,
        anonymous: None,
        tokens: vec![("t".to_owned(), token)],
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    kubectl_ok(&server, &["get", "pods", "--token", "t"], "").await;
    let requests = server.handle().requests();
    assert!(
        requests
            .iter()
            .all(|request| request.user == "system:serviceaccount:default:robot"),
        "{requests:?}"
    );
    assert!(
        !kubectl(&server, &["get", "pods", "--token", "forged"], "")
            .await
            .status
            .success()
    );
}

#[tokio::test]
async fn kubectl_prints_built_in_kinds() {
    let server = server().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    kubectl_ok(&server, &["create", "-f", "-"], &pod.to_string()).await;
    let table = kubectl_ok(&server, &["get", "pods"], "").await;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["p", "0/1", "Pending", "0"], "{table}");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    kubectl_ok(&server, &["create", "-f", "-"], &secret.to_string()).await;
    kubectl_ok(&server, &["label", "secret", "s", "l=1"], "").await;
    assert!(
        kubectl_ok(&server, &["get", "secrets", "-l", "l=1"], "")
            .await
            .contains("Opaque")
    );
    kubectl_ok(&server, &["delete", "pod", "p"], "").await;
    kubectl_ok(&server, &["api-resources"], "").await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    kubectl_ok(&server, &["create", "-f", "-"], &namespace.to_string()).await;
    kubectl_ok(&server, &["delete", "namespace", "n", "--timeout=20s"], "").await;
}

#[tokio::test]
async fn kubectl_needs_no_token_where_none_is_asked_for() {
    let server = Server::start(Options {
        tls: true,
        enforce_rbac: true,
        ..Options::default()
    })
    .await
    .unwrap();
    assert!(
        kubectl_ok(&server, &["get", "namespaces"], "")
            .await
            .contains("kube-system")
    );
}
