//! Objects as users apply them.

use serde_json::{Value, json};

const CONNECTORS: &str = "connectors.postern.dev/v1alpha1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The class `basic`: user and password.
pub(crate) fn class() -> Value {
    json!({
        "apiVersion": CONNECTORS,
        "kind": "ConnectorClass",
        "metadata": {"name": "basic"},
        "spec": {"auth": {"types": [
            {"name": "basicAuth", "secretType": "kubernetes.io/basic-auth"}
        ]}},
    })
}

/// A Connector of class `basic` with a Secret, both in namespace `team`.
pub(crate) fn connector(name: &str, secret: &str) -> Value {
    json!({
        "apiVersion": CONNECTORS,
        "kind": "Connector",
        "metadata": {"namespace": "team", "name": name},
        "spec": {
            "connectorClassName": "basic",
            "address": format!("https://{name}.example.com"),
            "auth": {"name": "basicAuth", "secretRef": {"name": secret}},
        },
    })
}

/// A Secret of namespace `team` with this password.
pub(crate) fn secret(name: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": "team", "name": name},
        "type": "kubernetes.io/basic-auth",
        "stringData": {"username": "robot", "password": password},
    })
}

/// A pod of the service account `builder` on a node.
pub(crate) fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "builder",
            "containers": [{"name": "main", "image": "busybox"}],
        },
    })
}

/// A role that allows to use the Connectors of `team`: all, or those of these names.
pub(crate) fn role(names: &[&str]) -> Value {
    let mut rule = json!({
        "apiGroups": ["connectors.postern.dev"],
        "resources": ["connectors/proxy"],
        "verbs": ["get"],
    });
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    json!({
        "apiVersion": RBAC,
        "kind": "Role",
        "metadata": {"namespace": "team", "name": "users"},
        "rules": [rule],
    })
}

/// Grants the role to the service account `builder` of `team`.
pub(crate) fn binding() -> Value {
    json!({
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"namespace": "team", "name": "users"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "users"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "team", "name": "builder"}],
    })
}
