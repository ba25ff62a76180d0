//! No value of a Secret in any error, `Debug` or display.

use super::*;

/// The value that must not be seen, plain and in base64.
const VALUES: [&str; 2] = ["hunter2", "aHVudGVyMg"];

fn assert_hidden(what: &str, text: &str) {
    for value in VALUES {
        assert!(!text.contains(value), "{value} is shown by {what}:\n{text}");
    }
}

#[test]
fn errors_never_quote_a_document_that_holds_a_secret() {
    const HEAD: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    for body in [
        // Wrong types.
        "stringData: hunter2",
        "stringData: [hunter2]",
        "stringData: {password: [hunter2]}",
        "stringData: {password: {hunter2: hunter2}}",
        "data: hunter2",
        "type: [hunter2]",
        "type: {a: hunter2}",
        "immutable: hunter2",
        "metadata: hunter2",
        // Unknown fields, wrong indentation.
        "hunter2: x",
        "password: hunter2",
        "stringData:\nhunter2: x",
        "stringData:\npassword: hunter2",
        // Broken base64.
        "data: {password: hunter2}",
        "data: {password: 'hunter2 aHVudGVyMg'}",
        // Broken YAML.
        "stringData: {password: hunter2",
        "stringData: {password: 'hunter2",
        "stringData: {password: \"hunter2\\q\"}",
        "stringData:\n  password: hunter2: x",
        "stringData:\n  password: hunter2\n a: b",
        "stringData:\n\tpassword: hunter2",
        "stringData:\n  password: @hunter2",
        "stringData:\n  password: *hunter2",
        "stringData:\n  password: !hunter2 x",
        "stringData:\n  password: !!int hunter2",
        "stringData:\n  password: !!binary hunter2!",
        "stringData:\n  password: &hunter2",
        "stringData:\n  <<: hunter2",
        "stringData:\n  ? [hunter2]\n  : x",
        "stringData:\n  hunter2: a\n  hunter2: b",
        "stringData:\n  password: hunter2\n  password: hunter2",
        "stringData: {password: .nan, x: hunter2}\nstringData: {}",
        "%hunter2\nstringData: {}",
    ] {
        let text = format!("{HEAD}{body}\n---\n{}", connector("c", SOUND));
        let errors = load_text("a.yaml", &text).expect_err(body);
        assert_hidden(body, &format!("{errors}\n{errors:?}\n{errors:#?}"));
    }
}

#[test]
fn errors_about_a_connector_quote_no_values_either() {
    for spec in [
        "{connectorClassName: oci, address: 'https://me:hunter2@a.example.com'}",
        "{connectorClassName: oci, address: 'https://a.example.com?t=hunter2'}",
        "{connectorClassName: oci, address: 'me:hunter2@a.example.com'}",
        "{connectorClassName: oci, address: [hunter2]}",
        "{connectorClassName: oci, address: 'https://a.example.com', auth: hunter2}",
        "{connectorClassName: oci, address: 'https://a.example.com', auth: {secretRef: hunter2}}",
        "{connectorClassName: oci, address: 'https://a.example.com', interception: {mode: hunter2}}",
        "{connectorClassName: npm, address: 'https://a.example.com', params: [{name: strict-ssl, value: hunter2}]}",
        "{connectorClassName: npm, address: 'https://a.example.com', params: [{name: hunter2, value: x}]}",
    ] {
        let errors = load_text("a.yaml", &connector("c", spec)).expect_err(spec);
        assert_hidden(spec, &format!("{errors}\n{errors:?}"));
    }
}

#[test]
fn nothing_loaded_shows_its_secrets() {
    let bearer = "type: connectors.cpaas.io/bearer-token\nstringData: {token: hunter2}";
    let docker = "type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: \
                  '{\"auths\": {\"r.example.com\": {\"identitytoken\": \"hunter2\"}}}'}";
    let annotated = secret("annotated", bearer).replace(
        "{name: annotated}",
        "{name: annotated, annotations: {last: hunter2}}",
    );
    let text = [
        login(),
        secret("bearer", bearer),
        secret("docker", docker),
        annotated,
        connector("a", SOUND),
        connector(
            "b",
            "{connectorClassName: generic-bearer, address: https://b.example.com, \
                        auth: {secretRef: {name: bearer}}}",
        ),
        connector(
            "c",
            "{connectorClassName: oci, address: https://r.example.com, \
                        auth: {secretRef: {name: docker}}}",
        ),
        connector(
            "d",
            "{connectorClassName: generic-bearer, address: https://d.example.com, \
                        auth: {secretRef: {name: annotated}}}",
        ),
    ];
    let loaded = loaded(&text.concat());
    assert_eq!(loaded.connectors.len(), 4);
    assert_hidden("Loaded", &format!("{loaded:?}\n{loaded:#?}"));
    let secrets: Vec<_> = loaded
        .origins
        .iter()
        .filter_map(|it| it.secret.as_ref())
        .collect();
    assert_eq!(secrets.len(), 4);
    assert_hidden("SecretData", &format!("{secrets:?}"));
}
