//! The whole way from text to Connectors.

use secrecy::ExposeSecret as _;

use super::*;

/// A Secret that fits the class `generic-basic`.
const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: login}
type: kubernetes.io/basic-auth
stringData: {username: me, password: s3cr3t-value}
";

#[test]
fn a_connector_is_resolved() {
    let text = format!(
        "
apiVersion: connectors.postern.dev/v1alpha1
kind: Connector
metadata: {{name: hub, namespace: default}}
spec:
  connectorClassName: generic-basic
  address: https://Hub.example.com/team/
  auth: {{name: basicAuth, secretRef: {{name: login}}}}
---{SECRET}"
    );
    let loaded = load_text("a.yaml", &text).expect("sound");
    let connector = &loaded.connectors[0];
    assert_eq!(connector.to_string(), "default/hub");
    assert_eq!(
        connector.address.to_string(),
        "https://hub.example.com/team"
    );
    let Some(Credential::Basic { username, password }) = &connector.credential else {
        panic!("{connector:?}");
    };
    assert_eq!(username.expose_secret(), "me");
    assert_eq!(password.expose_secret(), "s3cr3t-value");
}
