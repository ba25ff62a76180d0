//! Secrets with faults: the Secret is named, not the Connector that uses it.

use super::*;

#[test]
fn values_of_secrets_must_fit_a_header() {
    const BASIC: &str = "type: kubernetes.io/basic-auth";
    const BEARER: &str = "type: connectors.cpaas.io/bearer-token";
    const DOCKER: &str = "type: kubernetes.io/dockerconfigjson";
    for (class, type_, values, expected) in [
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me}",
            "stringData.password: is missing: Connector default/c needs it; add it here or, in base64, to data",
        ),
        (
            "generic-basic",
            BASIC,
            "data: {password: aHVudGVyMg==}",
            "stringData.username: is missing: Connector default/c needs it; add it here or, in base64, to data",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me, password: 5}",
            "stringData.password: must be a string, not a number: put it in quotes",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me, password: yes}",
            "stringData.password: must be a string, not true or false: put it in quotes",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me}\ndata: {password: hunter2}",
            "data.password: is not base64: encode it, or move it to stringData, which takes it as it is",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me, password: \"hunter2\\n\"}",
            "stringData.password: ends in a newline, which no header can carry: write it without one \
          (`printf %s` instead of `echo`, and in YAML a plain value instead of a `|` block)",
        ),
        (
            "generic-basic",
            BASIC,
            "data: {username: bWUK, password: aHVudGVyMg==}",
            "data.username: ends in a newline, which no header can carry: write it without one \
          (`printf %s` instead of `echo`, and in YAML a plain value instead of a `|` block)",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me, password: \"hunter2\\u0007x\"}",
            "stringData.password: has a control character in it, which no header can carry: remove it",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me, password: ''}",
            "stringData.password: is empty: give it a value",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: 'm:e', password: hunter2}",
            "stringData.username: has a `:` in it, which HTTP Basic authentication cannot carry in a user name",
        ),
        (
            "generic-basic",
            BASIC,
            "stringData: {username: me}\ndata: {password: /w==}",
            "data.password: is not UTF-8 text, so no header can carry it",
        ),
        (
            "generic-bearer",
            BEARER,
            "stringData: {password: hunter2}",
            "stringData.token: is missing: Connector default/c needs it; add it here or, in base64, to data",
        ),
        (
            "generic-bearer",
            BEARER,
            "stringData: {token: hunter2 x}",
            "stringData.token: has a character that a token cannot have: only visible ASCII, no spaces",
        ),
        (
            "oci",
            DOCKER,
            "stringData: {}",
            "stringData..dockerconfigjson: is missing: Connector default/c needs it; add it here or, in base64, to data",
        ),
        (
            "oci",
            DOCKER,
            "stringData: {.dockerconfigjson: '{\"auths\": {}}'}",
            "stringData..dockerconfigjson: has no entry for a.example.com: add one named a.example.com under `auths`",
        ),
        (
            "oci",
            DOCKER,
            "stringData: {.dockerconfigjson: '{\"auths\": hunter2}'}",
            "stringData..dockerconfigjson: is not a Docker configuration: it must be JSON with `auths`, \
          and each `auth` in it base64 of user:password",
        ),
    ] {
        let spec = format!(
            "{{connectorClassName: {class}, address: 'https://a.example.com', auth: {{secretRef: {{name: s}}}}}}"
        );
        let text = connector("c", &spec) + &secret("s", &format!("{type_}\n{values}"));
        let faults = faults(&text);
        assert_eq!(
            faults,
            [format!("a.yaml, document 2, Secret default/s, {expected}")],
            "{text}"
        );
    }
}

#[test]
fn declared_keys_of_a_secret_are_needed() {
    let text = class(
        "x",
        "{auth: {types: [{name: a, secretType: kubernetes.io/basic-auth, \
                           params: [{name: realm}, {name: other, default: ''}]}]}}",
    ) + &connector(
        "c",
        "{connectorClassName: x, address: https://a.example.com, \
                           auth: {secretRef: {name: login}}}",
    ) + &login();
    assert_eq!(
        faults(&text)[0],
        "a.yaml, document 3, Secret default/login, stringData.realm: is missing: Connector default/c needs it; add it \
         here or, in base64, to data"
    );
}

#[test]
fn authorities_must_be_certificates() {
    let junk = "-----BEGIN CERTIFICATE-----\\naGVsbG8=\\n-----END CERTIFICATE-----\\n";
    let torn = "-----BEGIN CERTIFICATE-----\\naGVsbG8=\\n";
    let key = "-----BEGIN PRIVATE KEY-----\\naGVsbG8=\\n-----END PRIVATE KEY-----\\n";
    for (values, expected) in [
        (
            "note: x".to_owned(),
            ": has no certificate, but Connector default/c names it in spec.caCertSecretRef: add one in \
          PEM under a key that ends in .crt or .pem",
        ),
        (
            format!("tls.key: \"{key}\""),
            ": has no certificate, but Connector default/c names it in spec.caCertSecretRef: add one in \
          PEM under a key that ends in .crt or .pem",
        ),
        (
            "ca.crt: x".to_owned(),
            ", stringData.ca.crt: has no PEM certificate in it: add one",
        ),
        (
            format!("ca: \"{torn}\""),
            ", stringData.ca: is not valid PEM: paste each certificate whole, with its BEGIN and END lines",
        ),
        (
            format!("ca.pem: \"{junk}\""),
            ", stringData.ca.pem: holds a certificate that cannot be read as X.509: export it again",
        ),
    ] {
        let text = connector(
            "c",
            "{connectorClassName: oci, address: https://r.example.com, \
                                   caCertSecretRef: {name: ca}}",
        ) + &secret("ca", &format!("stringData: {{{values}}}"));
        assert_eq!(
            faults(&text),
            [format!("a.yaml, document 2, Secret default/ca{expected}")]
        );
    }
}
