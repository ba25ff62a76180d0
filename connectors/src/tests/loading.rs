//! Manifests that are sound, and what becomes of them.

use std::fmt::Write as _;
use std::io::Write as _;

use ::secrecy::ExposeSecret as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// A credential in the open.
fn shown(connector: &Connector) -> String {
    match &connector.credential {
        None => "none".to_owned(),
        Some(Credential::Basic { username, password }) => {
            format!(
                "basic {}:{}",
                username.expose_secret(),
                password.expose_secret()
            )
        }
        Some(Credential::Bearer { token }) => format!("bearer {}", token.expose_secret()),
        Some(Credential::IdentityToken { token }) => format!("identity {}", token.expose_secret()),
        Some(Credential::Generated(generated)) => format!("generated {generated:?}"),
        Some(Credential::Certificate { certificate, .. }) => format!("{certificate:?}"),
    }
}

#[test]
fn a_connector_has_everything_its_manifest_says() {
    let text = "
apiVersion: connectors.postern.dev/v1alpha1
kind: Connector
metadata:
  name: npm
  namespace: team-a
spec:
  connectorClassName: npm
  address: https://Npm.example.com/mirror/
  auth:
    name: basicAuth
    secretRef: {name: login, namespace: team-a, kind: Secret, apiVersion: v1}
  params:
  - {name: registryType, value: mirror}
  interception:
    failurePolicy: Open
    clientAuthorization: Reject
    egress: Node
    onUntrustedCA: Passthrough
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: team-a}
type: kubernetes.io/basic-auth
data: {username: bWU=, password: b3RoZXI=}
stringData: {password: 'pass:word'}
immutable: true
";
    let loaded = loaded(text);
    let (connector, origin) = loaded.iter().next().expect("one");
    assert_eq!(connector.id, ConnectorId(1));
    assert_eq!(connector.to_string(), "team-a/npm");
    assert_eq!(connector.class, "npm");
    assert_eq!(
        connector.address.to_string(),
        "https://npm.example.com/mirror"
    );
    assert!(connector.extensions.is_empty());
    assert_eq!(connector.protocol, Protocol::Http);
    assert_eq!(shown(connector), "basic me:pass:word");
    assert_eq!(connector.client_authorization, ClientAuthorization::Reject);
    assert_eq!(connector.failure_policy, FailurePolicy::Open);
    assert_eq!(connector.on_untrusted_ca, OnUntrustedCa::Passthrough);
    assert_eq!(origin.auth_type.as_deref(), Some("basicAuth"));
    let params: Vec<_> = origin
        .params
        .iter()
        .map(|it| (&*it.name, it.value.as_str()))
        .collect();
    assert_eq!(
        params,
        [
            ("registryType", Some("mirror")),
            ("strict-ssl", Some("true"))
        ]
    );
}

#[test]
fn every_built_in_class_loads() {
    let mut text = login();
    let bearer = "type: connectors.cpaas.io/bearer-token\nstringData: {token: t0ken}";
    text += &secret("bearer", bearer);
    for (index, name) in [
        "generic-basic",
        "git",
        "harbor",
        "maven",
        "npm",
        "oci",
        "pypi",
    ]
    .iter()
    .enumerate()
    {
        text += &connector(
            name,
            &format!(
                "{{connectorClassName: {name}, address: 'https://h{index}.example.com', \
             auth: {{secretRef: {{name: login}}}}}}"
            ),
        );
    }
    text += &connector(
        "bearer",
        "{connectorClassName: generic-bearer, address: \
        'https://b.example.com', auth: {name: bearerTokenAuth, secretRef: {name: bearer}}}",
    );
    let loaded = loaded(&text);
    assert_eq!(loaded.connectors.len(), 8);
    for connector in &loaded.connectors {
        let oci = matches!(&*connector.class, "oci" | "harbor");
        assert_eq!(connector.protocol == Protocol::Oci, oci, "{connector}");
    }
    assert_eq!(shown(&loaded.connectors[0]), "basic me:hunter2");
    assert_eq!(shown(&loaded.connectors[7]), "bearer t0ken");
}

#[test]
fn samples_for_clusters_load_as_they_are() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples");
    for (file, expected) in [
        ("oci.yaml", "basic robot:change-me"),
        ("git.yaml", "basic robot:change-me"),
        ("bearer.yaml", "bearer change-me"),
    ] {
        let source = Source::Path(format!("{folder}/{file}").into());
        let loaded = load(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.connectors.len(), 1, "{file}");
        assert_eq!(shown(&loaded.connectors[0]), expected, "{file}");
    }
}

#[test]
fn registries_take_their_login_in_any_of_three_wrappings() {
    const CONFIG: &str = r#"{"auths": {"r.example.com:5000": {"auth": "bWU6aHVudGVyMg=="}}}"#;
    let encoded = STANDARD.encode(CONFIG);
    for (fields, type_) in [
        (
            "type: cpaas.io/distribution-registry-token\nstringData: {username: me, password: hunter2}",
            "tokenAuth",
        ),
        (
            "type: kubernetes.io/basic-auth\nstringData: {username: me, password: hunter2}",
            "basicAuth",
        ),
        (
            &*format!(
                "type: kubernetes.io/dockerconfigjson\ndata: {{.dockerconfigjson: {encoded}}}"
            ),
            "tokenAuth",
        ),
    ] {
        for name in ["", "name: tokenAuth, ", "name: basicAuth, "] {
            let spec = format!(
                "{{connectorClassName: oci, address: 'https://r.example.com:5000', \
                 auth: {{{name}secretRef: {{name: s}}}}}}"
            );
            let loaded = loaded(&(secret("s", fields) + &connector("c", &spec)));
            assert_eq!(shown(&loaded.connectors[0]), "basic me:hunter2", "{fields}");
            if name.is_empty() {
                assert_eq!(loaded.origins[0].auth_type.as_deref(), Some(type_));
            }
        }
    }
}

#[test]
fn a_class_may_allow_a_connector_without_a_secret() {
    for spec in [
        "{connectorClassName: oci, address: https://r.example.com}",
        "{connectorClassName: git, address: https://g.example.com, auth: {name: basicAuth}}",
        "{connectorClassName: git, address: https://g.example.com, auth: {params: [{name: repository, value: a/b}]}}",
        "{connectorClassName: open, address: https://g.example.com}",
    ] {
        let loaded = loaded(&(connector("c", spec) + &class("open", "{}")));
        assert_eq!(shown(&loaded.connectors[0]), "none", "{spec}");
    }
}

#[test]
fn extensions_come_from_the_connector_or_the_class() {
    let class = class(
        "hub",
        "
  addressExtensions:
  - {name: api}
  - {name: upload, default: 'https://upload.example.com/files/'}",
    );
    let loaded = loaded(
        &(class
            + &connector(
                "c",
                "
  connectorClassName: hub
  address: https://hub.example.com
  addressExtensions: [{name: api, value: 'http://api.example.com:8080'}]",
            )),
    );
    let addresses: Vec<String> = loaded.connectors[0]
        .addresses()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        addresses,
        [
            "https://hub.example.com",
            "http://api.example.com:8080",
            "https://upload.example.com/files",
        ]
    );
}

#[test]
fn a_class_of_the_files_replaces_a_built_in_one() {
    let text = class("oci", "{protocol: HTTP}")
        + &connector(
            "c",
            "{connectorClassName: oci, address: https://r.example.com/path}",
        );
    assert_eq!(loaded(&text).connectors[0].protocol, Protocol::Http);
}

#[test]
fn certificates_of_the_connector_are_read() {
    let certificate =
        rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]).expect("a certificate");
    let pem = certificate.cert.pem();
    let indented = pem.replace('\n', "\n    ");
    let mut text = secret(
        "ca",
        &format!(
            "stringData:\n  ca.crt: |\n    {indented}\n  bundle: |\n    {indented}\n  note: not PEM"
        ),
    );
    text += &connector(
        "c",
        "{connectorClassName: oci, address: https://r.example.com, \
                             caCertSecretRef: {name: ca}}",
    );
    let loaded = loaded(&text);
    let roots = &loaded.connectors[0].extra_roots;
    assert_eq!(roots.len(), 2);
    assert!(roots.iter().all(|root| root == certificate.cert.der()));
}

#[test]
fn printed_objects_lists_and_strangers_are_read() {
    let text = "
# as kubectl prints it
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: connectors.postern.dev/v1alpha1
  kind: Connector
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    creationTimestamp: '2026-01-02T03:04:05Z'
    finalizers: [a/b]
    generation: 2
    labels: {a: b}
    managedFields:
    - {apiVersion: a/v1, fieldsType: FieldsV1, fieldsV1: {'f:spec': {}}, manager: kubectl, operation: Update}
    name: c
    namespace: default
    ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u}]
    resourceVersion: '7'
    uid: 0d2c
  spec:
    address: https://r.example.com
    connectorClassName: oci
    params:
  status:
    annotations: {a: b}
    observedGeneration: 2
    api: {path: /x}
    proxy: {httpAddress: {url: 'http://c.example.com'}}
    conditions:
    - {type: Ready, status: 'True', reason: '', message: '', lastTransitionTime: '2026-01-02T03:04:05Z'}
---
---
# a stranger
apiVersion: apps/v1
kind: Deployment
metadata: {name: x}
spec: {anything: goes}
";
    assert_eq!(loaded(text).connectors.len(), 1);
}

#[test]
fn base64_may_be_folded() {
    let fields = "type: kubernetes.io/basic-auth\ndata:\n  username: bWU=\n  password: |\n    aHVu\n    dGVyMg==";
    let loaded = loaded(&(secret("login", fields) + &connector("c", SOUND)));
    assert_eq!(shown(&loaded.connectors[0]), "basic me:hunter2");
}

#[test]
fn files_are_read_together() {
    let folder = std::env::temp_dir().join(format!("postern-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = |name: &str, text: &str| {
        let path = folder.join(name);
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        Source::Path(path)
    };
    let sources = [
        path("a.yaml", &connector("c", SOUND)),
        path("b.yaml", &login()),
    ];
    let together = load(&sources).expect("sound");
    assert_eq!(shown(&together.connectors[0]), "basic me:hunter2");

    let broken = [
        path("bytes.yaml", ""),
        Source::Path(folder.join("absent.yaml")),
        path("c.yaml", "kind: Connector\n"),
    ];
    std::fs::write(folder.join("bytes.yaml"), [0xff, 0xfe]).expect("written");
    let mut expected = String::new();
    let shown = folder.display();
    writeln!(expected, "{shown}/bytes.yaml: is not UTF-8 text").expect("a String takes it");
    writeln!(
        expected,
        "{shown}/absent.yaml: cannot be read: No such file or directory (os error 2)"
    )
    .expect("a String takes it");
    write!(
        expected,
        "{shown}/c.yaml, document 1, apiVersion: is missing: add it"
    )
    .expect("a String takes it");
    assert_eq!(load(&broken).expect_err("faults").to_string(), expected);
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_dash_is_standard_input() {
    assert_eq!(Source::from(std::ffi::OsString::from("-")), Source::Stdin);
    assert_eq!(
        Source::from(std::ffi::OsString::from("./-")),
        Source::Path("./-".into())
    );
}
