//! What is too much.

use super::*;
use crate::cluster::{Objects, Part, resolve};
use crate::limits;

#[test]
fn fields_of_a_credential_have_a_greatest_length() {
    let manifests = |length: usize| {
        let password = "x".repeat(length);
        let values = format!("stringData: {{username: me, password: {password}}}");
        let login = secret("login", &format!("type: {BASIC_AUTH}\n{values}"));
        login + &connector("c", SOUND)
    };
    loaded(&manifests(limits::CREDENTIAL));
    let faults = faults(&manifests(limits::CREDENTIAL + 1));
    assert_eq!(
        faults,
        [
            "a.yaml, document 1, Secret default/login, stringData.password: is longer than 16384 \
             bytes, which is more than servers accept in a header"
        ]
    );
}

#[test]
fn a_docker_configuration_has_the_same_limit() {
    let password = "x".repeat(limits::CREDENTIAL + 1);
    let json = format!(
        r#"{{"auths": {{"r.example.com": {{"username": "me", "password": "{password}"}}}}}}"#
    );
    let text = secret(
        "login",
        &format!("type: {DOCKER_CONFIG}\nstringData: {{.dockerconfigjson: '{json}'}}"),
    ) + &connector(
        "c",
        "{connectorClassName: oci, address: https://r.example.com, auth: {secretRef: {name: login}}}",
    );
    let faults = faults(&text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].contains("is longer than 16384 bytes"),
        "{faults:?}"
    );
}

#[test]
fn a_connector_has_so_many_addresses() {
    let extensions = |count: usize| -> (String, String) {
        let of = |index| format!("{{name: e{index}, value: 'https://e{index}.example.com'}}");
        let declared = |index| format!("{{name: e{index}}}");
        let list = |item: &dyn Fn(usize) -> String| {
            let items: Vec<String> = (0..count).map(item).collect();
            format!("[{}]", items.join(", "))
        };
        (list(&of), list(&declared))
    };
    let manifests = |count: usize| {
        let (given, declared) = extensions(count);
        class("many", &format!("{{addressExtensions: {declared}}}"))
            + &connector(
                "c",
                &format!(
                    "{{connectorClassName: many, address: 'https://c.example.com', \
                     addressExtensions: {given}}}"
                ),
            )
    };
    let sound = loaded(&manifests(limits::EXTENSIONS));
    assert_eq!(sound.connectors[0].addresses().count(), 17);
    let faults = faults(&manifests(limits::EXTENSIONS + 1));
    assert!(
        faults.iter().any(|it| it.contains(
            "spec.addressExtensions: has more than 16 addresses, defaults of the class included"
        )),
        "{faults:?}"
    );
}

/// A PEM certificate.
fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]);
    made.expect("a certificate").cert.pem()
}

fn bundle(pem: &str) -> SecretData {
    let value = ("ca.crt".to_owned(), pem.as_bytes().to_vec().into());
    SecretData::new("team", "ca", None, [value])
}

fn manifest(name: &str) -> proxy_common::api::Connector {
    let object = serde_json::json!({
        "apiVersion": "connectors.postern.dev/v1alpha1",
        "kind": "Connector",
        "metadata": {"namespace": "team", "name": name},
        "spec": {"address": "https://api.example.com", "caCertSecretRef": {"name": "ca"}},
    });
    serde_json::from_value(object).expect("a Connector")
}

#[test]
fn a_bundle_of_certificates_has_a_greatest_size() {
    let one = certificate();
    let ca_secret = bundle(&one.repeat(limits::CA_BUNDLE / one.len() + 1));
    let objects = Objects {
        ca_secret: Some(&ca_secret),
        ..Objects::default()
    };
    let resolution = resolve(ConnectorId(1), &manifest("c"), objects);
    let Part::Unfit(faults) = &resolution.ca_secret else {
        panic!("too large: {:?}", resolution.ca_secret);
    };
    let fault = faults[0].to_string();
    assert!(
        fault.contains("Secret team/ca, data.ca.crt: makes more than 128 KiB"),
        "{fault}"
    );
    let connector = resolution.connector.expect("it has an address");
    assert!(connector.extra_roots.is_empty(), "all or none");
}

#[test]
fn connectors_share_the_certificates_of_a_secret() {
    let ca_secret = bundle(&certificate());
    let objects = Objects {
        ca_secret: Some(&ca_secret),
        ..Objects::default()
    };
    let roots = |name: &str| {
        let resolution = resolve(ConnectorId(1), &manifest(name), objects);
        resolution.connector.expect("it has an address").extra_roots
    };
    let (one, other) = (roots("one"), roots("other"));
    assert_eq!(one.len(), 1);
    assert!(Arc::ptr_eq(&one, &other));
}
