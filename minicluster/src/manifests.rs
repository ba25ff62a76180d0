//! The objects of a user.

use std::fmt::Write;

use serde_json::{Value, json};

/// A Connector to the registry with the class `oci`, its Secret and that of the registry's
/// authority, in a namespace that is made as well, whose service accounts may use it.
pub fn tenant(namespace: &str, user: &str, password: &str, address: &str, ca_pem: &str) -> String {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        service_account(namespace, "default"),
        grant(namespace),
        authority(namespace, ca_pem),
        login(namespace, user, password),
        connector(namespace, address),
    ];
    list(&objects)
}

/// A namespace without any Connector.
pub fn bare_namespace(namespace: &str) -> String {
    list(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        service_account(namespace, "default"),
        grant(namespace),
    ])
}

/// The Secret with the authority of the registry's certificate.
pub fn authority(namespace: &str, ca_pem: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "registry-authority", "namespace": namespace},
        "type": "Opaque",
        "stringData": {"ca.crt": ca_pem},
    })
}

/// The Secret of [`tenant`]'s Connector.
pub fn login(namespace: &str, user: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "registry-login", "namespace": namespace},
        "type": "cpaas.io/distribution-registry-token",
        "stringData": {"username": user, "password": password},
    })
}

/// The Connector of [`tenant`].
pub fn connector(namespace: &str, address: &str) -> Value {
    json!({
        "apiVersion": "connectors.postern.dev/v1alpha1",
        "kind": "Connector",
        "metadata": {"name": "registry", "namespace": namespace},
        "spec": {
            "connectorClassName": "oci",
            "address": address,
            "caCertSecretRef": {"name": "registry-authority"},
            "auth": {"name": "tokenAuth", "secretRef": {"name": "registry-login"}},
        },
    })
}

/// Objects as one stream for `kubectl apply`.
pub fn list(objects: &[Value]) -> String {
    objects.iter().fold(String::new(), |mut text, object| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "---\n{object}");
        text
    })
}

/// A service account.
pub fn service_account(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    })
}

/// All service accounts of the namespace may use its Connectors.
fn grant(namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "connector-users", "namespace": namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "postern-connector-user",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Group",
            "name": format!("system:serviceaccounts:{namespace}"),
        }],
    })
}
