//! Tokens, reviews and roles.

use fake_apiserver::{Identity, Options, Server, Token};
use serde_json::{Value, json};

use crate::support::*;

const SUBJECT_ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn may(server: &Server, user: &str, groups: &[&str], attributes: &Value) -> bool {
    let review =
        json!({"spec": {"user": user, "groups": groups, "resourceAttributes": attributes}});
    let answer = post(server, SUBJECT_ACCESS, &review).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["status"]["allowed"] == true
}

#[tokio::test]
async fn a_token_review_knows_audiences_and_claims() {
    let server = server().await;
    let agent = Identity::service_account("postern", "agent").bound_to("agent-1", "u", "node-1");
    server
        .handle()
        .add_token("good", Token::with_audiences(agent, &["postern"]));
    let review =
        |token: &str, audience: &str| json!({"spec": {"token": token, "audiences": [audience]}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let good = post(&server, path, &review("good", "postern")).await.body;
    assert_eq!(good["status"]["authenticated"], true);
    assert_eq!(
        good["status"]["user"]["username"],
        "system:serviceaccount:postern:agent"
    );
    assert_eq!(
        good["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"],
        json!(["node-1"])
    );
    assert_eq!(good["status"]["audiences"], json!(["postern"]));
    for (token, audience) in [("good", "other"), ("forged", "postern")] {
        let bad = post(&server, path, &review(token, audience)).await.body;
        assert_ne!(bad["status"]["authenticated"], true);
    }
}

#[tokio::test]
async fn access_follows_roles_bindings_names_and_subresources() {
    let server = server().await;
    let role = json!({"metadata": {"name": "proxy"}, "rules": [
        {"apiGroups": ["example.test"], "resources": ["widgets/proxy"], "resourceNames": ["a"], "verbs": ["get"]},
    ]});
    post(&server, &format!("{RBAC}/namespaces/default/roles"), &role).await;
    let binding = json!({"metadata": {"name": "proxy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "proxy"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}, {"kind": "Group", "name": "friends"}]});
    let made = post(
        &server,
        &format!("{RBAC}/namespaces/default/rolebindings"),
        &binding,
    )
    .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let wanted = json!({"verb": "get", "group": "example.test", "resource": "widgets", "subresource": "proxy", "namespace": "default", "name": "a"});
    let user = "system:serviceaccount:default:sa";
    assert!(may(&server, user, &[], &wanted).await);
    assert!(may(&server, "x", &["friends"], &wanted).await);
    assert!(!may(&server, "x", &["system:serviceaccounts"], &wanted).await);
    for (field, value) in [
        ("verb", "list"),
        ("subresource", ""),
        ("namespace", "kube-system"),
        ("name", "b"),
        ("group", ""),
    ] {
        let mut other = wanted.clone();
        other[field] = json!(value);
        assert!(!may(&server, user, &[], &other).await, "{field}");
    }
    assert!(may(&server, "root", &["system:masters"], &wanted).await);
}

#[tokio::test]
async fn roles_decide_about_requests_if_they_are_to() {
    let reader = Token::new(Identity::user("reader", &[]));
    let options = Options {
        enforce_rbac: true,
        tokens: vec![("r".to_owned(), reader)],
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    let role = json!({"metadata": {"name": "read"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    post(&server, &format!("{RBAC}/clusterroles"), &role).await;
    let as_reader = [("authorization", "Bearer r")];
    let denied = send(&server, "GET", MAPS, &as_reader, &Value::Null).await;
    refused(&denied, 403, "Forbidden");
    assert!(
        denied.body["message"]
            .as_str()
            .unwrap()
            .contains("User \"reader\" cannot list resource \"configmaps\"")
    );
    let binding = json!({"metadata": {"name": "read"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "read"},
        "subjects": [{"kind": "User", "name": "reader"}]});
    post(
        &server,
        &format!("{RBAC}/namespaces/default/rolebindings"),
        &binding,
    )
    .await;
    assert_eq!(
        send(&server, "GET", MAPS, &as_reader, &Value::Null)
            .await
            .status,
        200
    );
    refused(
        &send(
            &server,
            "GET",
            "/api/v1/configmaps",
            &as_reader,
            &Value::Null,
        )
        .await,
        403,
        "Forbidden",
    );
    refused(
        &send(
            &server,
            "GET",
            MAPS,
            &[("authorization", "Bearer forged")],
            &Value::Null,
        )
        .await,
        401,
        "Unauthorized",
    );
    assert_eq!(
        send(&server, "GET", "/api", &as_reader, &Value::Null)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_service_account_gets_tokens_bound_to_its_pod() {
    let server = server().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    post(&server, "/api/v1/namespaces/default/pods", &pod).await;
    let request = json!({"spec": {"audiences": ["postern"], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
    let issued = post(
        &server,
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        &request,
    )
    .await
    .body;
    let review = json!({"spec": {"token": issued["status"]["token"], "audiences": ["postern"]}});
    let answer = post(
        &server,
        "/apis/authentication.k8s.io/v1/tokenreviews",
        &review,
    )
    .await
    .body;
    assert_eq!(
        answer["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"],
        json!(["n"])
    );
}
