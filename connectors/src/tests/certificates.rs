//! Secrets of type `kubernetes.io/tls`, and what comes of them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, SignatureAlgorithm,
};
use time::OffsetDateTime;

use super::*;

const CLASS: &str = "{auth: {types: [{name: mutual, secretType: kubernetes.io/tls}]}}";
const CONNECTOR: &str = "{connectorClassName: mutual, address: https://a.example.com, \
                         auth: {secretRef: {name: pair}}}";

/// A leaf, its intermediate and their root, PEM, and the leaf's key.
struct Chain {
    leaf: String,
    intermediate: String,
    root: String,
    key: KeyPair,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn chain(algorithm: &'static SignatureAlgorithm) -> Chain {
    let authority = |name| {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let generate = || KeyPair::generate().expect("a key");
    let (root_key, key) = (generate(), generate());
    let root = authority("root");
    let root_pem = root.self_signed(&root_key).expect("a root").pem();
    let root = Issuer::new(root, root_key);
    let intermediate = authority("intermediate");
    let signed = intermediate.signed_by(&key, &root).expect("an authority");
    let issuer = Issuer::new(intermediate, key);
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let leaf = named("client").signed_by(&key, &issuer).expect("a leaf");
    Chain {
        leaf: leaf.pem(),
        intermediate: signed.pem(),
        root: root_pem,
        key,
    }
}

/// A Secret with these values.
fn pair(certificates: &str, key: &str) -> String {
    let mut data = String::new();
    for (name, value) in [("tls.crt", certificates), ("tls.key", key)] {
        let value = value.replace('\n', "\\n");
        writeln!(data, "  {name}: \"{value}\"").expect("room");
    }
    secret(
        "pair",
        &format!("type: kubernetes.io/tls\nstringData:\n{data}"),
    )
}

fn manifests(class_spec: &str, connector_spec: &str, secret: &str) -> String {
    let class = class("mutual", class_spec);
    let connector = connector("c", connector_spec);
    format!("{class}{connector}{secret}")
}

fn openssl(arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut stdin = openssl.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("a reader");
    drop(stdin);
    let output = openssl.wait_with_output().expect("an end");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_pair_becomes_a_certificate_whatever_the_form_of_its_key() {
    for (algorithm, has_sec1) in [(&PKCS_ECDSA_P256_SHA256, true), (&PKCS_ED25519, false)] {
        let Chain {
            leaf,
            intermediate,
            root,
            key,
        } = chain(algorithm);
        let mut keys = vec![key.serialize_pem()];
        if has_sec1 {
            // SEC 1, behind the parameters that OpenSSL writes before it.
            let traditional = openssl(&["ec"], &keys[0]);
            let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n\
                              -----END EC PARAMETERS-----\n";
            keys.push(format!("{parameters}{traditional}"));
        }
        for key in keys {
            for (length, text) in [
                (1, leaf.clone()),
                (2, format!("{leaf}{intermediate}")),
                (3, format!("a comment\n{leaf}{intermediate}{root}")),
            ] {
                let loaded = loaded(&manifests(CLASS, CONNECTOR, &pair(&text, &key)));
                let connector = &loaded.connectors[0];
                let certificate = connector.certificate().expect("a certificate");
                assert_eq!(certificate.chain().len(), length);
                certificate.certified().expect("a key that signs");
            }
        }
    }
    let key = openssl(&["genrsa", "-traditional", "2048"], "");
    let request = KeyPair::from_pem(&openssl(&["pkcs8", "-topk8", "-nocrypt"], &key));
    let request = request.expect("a key");
    let leaf = named("rsa").self_signed(&request).expect("a certificate");
    assert!(key.contains("RSA PRIVATE KEY"), "PKCS #1 is wanted");
    loaded(&manifests(CLASS, CONNECTOR, &pair(&leaf.pem(), &key)));
}

#[test]
fn what_is_wrong_with_a_pair_is_said_of_the_value_that_has_it() {
    let Chain {
        leaf,
        intermediate,
        root,
        key,
    } = chain(&PKCS_ECDSA_P256_SHA256);
    let key = key.serialize_pem();
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let encrypted = openssl(
        &["pkcs8", "-topk8", "-passout", "pass:secret", "-iter", "2"],
        &key,
    );
    let old_encrypted = openssl(&["ec", "-aes128", "-passout", "pass:secret"], &key);
    assert!(old_encrypted.contains("Proc-Type"), "RFC 1421 is wanted");
    let curve = openssl(
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:secp256k1",
        ],
        "",
    );
    let cut = leaf.replace("-----END CERTIFICATE-----", "");
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let long = leaf.repeat(crate::limits::CLIENT_CHAIN / leaf.len() + 1);
    for (certificates, key, field, words) in [
        (leaf.as_str(), other.as_str(), "tls.key", "does not belong"),
        (&leaf, &encrypted, "tls.key", "encrypted with a password"),
        (
            &leaf,
            &old_encrypted,
            "tls.key",
            "encrypted with a password",
        ),
        (&leaf, &leaf, "tls.key", "no PEM private key"),
        (&leaf, "", "tls.key", "no PEM private key"),
        (&leaf, &curve, "tls.key", "no private key that can be used"),
        (
            &format!("{intermediate}{leaf}"),
            &key,
            "tls.crt",
            "certificate 2 in it",
        ),
        (
            &format!("{leaf}{root}{intermediate}"),
            &key,
            "tls.crt",
            "certificate 2 did not issue",
        ),
        (
            &format!("{leaf}{leaf}"),
            &key,
            "tls.crt",
            "certificate 2 did not issue",
        ),
        (
            &format!("{leaf}{no_certificate}"),
            &key,
            "tls.crt",
            "certificate 2 cannot be read",
        ),
        (&cut, &key, "tls.crt", "not valid PEM"),
        ("", &key, "tls.crt", "no PEM certificate"),
        (&long, &key, "tls.crt", "longer than 64 KiB"),
    ] {
        let found = faults(&manifests(CLASS, CONNECTOR, &pair(certificates, key)));
        let [fault] = &found[..] else {
            panic!("{field}: {found:#?}");
        };
        let place = format!("Secret default/pair, stringData.{field}: ");
        assert!(fault.contains(&place) && fault.contains(words), "{fault}");
        for line in key.lines().filter(|line| line.len() > 60) {
            assert!(!fault.contains(line), "{fault}");
        }
    }
    let found = faults(&manifests(
        CLASS,
        CONNECTOR,
        &secret("pair", "type: kubernetes.io/tls\nstringData: {}"),
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn a_certificate_is_shown_over_tls_alone() {
    let Chain { leaf, key, .. } = chain(&PKCS_ECDSA_P256_SHA256);
    let pair = pair(&leaf, &key.serialize_pem());
    let plain = CONNECTOR.replace("https:", "http:");
    let found = faults(&manifests(CLASS, &plain, &pair));
    assert!(
        found.len() == 1
            && found[0].contains("spec.address: http://a.example.com is not encrypted"),
        "{found:#?}"
    );
    let class = "{addressExtensions: [{name: more}], \
                 auth: {types: [{name: mutual, secretType: kubernetes.io/tls}]}}";
    let extended = CONNECTOR.replace(
        "auth:",
        "addressExtensions: [{name: more, value: 'http://b.example.com'}], auth:",
    );
    let found = faults(&manifests(class, &extended, &pair));
    assert!(
        found.len() == 1 && found[0].contains("spec.addressExtensions: http://b.example.com"),
        "{found:#?}"
    );
}

#[test]
fn a_generator_gets_everything_but_the_key() {
    let Chain { leaf, key, .. } = chain(&PKCS_ECDSA_P256_SHA256);
    let key = key.serialize_pem();
    let class = "{auth: {types: [{name: mutual, secretType: kubernetes.io/tls, \
                 params: [{name: token}], generator: {rego: \"package proxy\\nauth := \
                 {\\\"position\\\": \\\"header\\\", \\\"auth\\\": {\\\"x-token\\\": \
                 input.data.token}}\"}}]}}";
    let pair = pair(&leaf, &key).replace("  tls.crt", "  token: hunter2\n  tls.crt");
    let loaded = loaded(&manifests(class, CONNECTOR, &pair));
    let credential = loaded.connectors[0].credential.as_ref().expect("one");
    assert!(credential.certificate().is_some());
    let generated = credential.generated().expect("a generator");
    let names: Vec<_> = generated.data().keys().collect();
    assert_eq!(names, ["tls.crt", "token"]);
}

#[test]
fn the_key_is_shown_by_no_debug() {
    let Chain { leaf, key, .. } = chain(&PKCS_ECDSA_P256_SHA256);
    let pem = key.serialize_pem();
    let loaded = loaded(&manifests(CLASS, CONNECTOR, &pair(&leaf, &pem)));
    let certificate = loaded.connectors[0].certificate().expect("a certificate");
    let certified = certificate.certified().expect("a key that signs");
    let text = format!("{loaded:?}\n{loaded:#?}\n{certified:?}");
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        assert!(!text.contains(line), "{text}");
    }
    let der = key.serialize_der();
    let numbers = format!("{:?}", &der[der.len() / 2..der.len() / 2 + 8]);
    assert!(!text.contains(numbers.trim_matches(['[', ']'])), "{text}");
}

#[test]
fn a_certificate_counts_from_its_first_to_its_last_second() {
    let key = KeyPair::generate().expect("a key");
    let mut params = named("client");
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    params.not_before = OffsetDateTime::from(at(1_000_000));
    params.not_after = OffsetDateTime::from(at(2_000_000));
    let leaf = params.self_signed(&key).expect("a certificate");
    let loaded = loaded(&manifests(
        CLASS,
        CONNECTOR,
        &pair(&leaf.pem(), &key.serialize_pem()),
    ));
    let connector = &loaded.connectors[0];
    let certificate = connector.certificate().expect("a certificate");
    assert_eq!(certificate.not_after(), at(2_000_000));
    for (now, expected) in [
        (999_999, Validity::NotYet),
        (1_000_000, Validity::Current),
        (2_000_000, Validity::Current),
        (2_000_001, Validity::Over),
    ] {
        assert_eq!(certificate.validity(at(now)), expected, "{now}");
        let condition = condition::untimely(connector, at(now));
        assert_eq!(condition.is_none(), expected == Validity::Current);
    }
    let over = condition::untimely(connector, at(2_000_001)).expect("a condition");
    assert_eq!(
        over.message,
        "the certificate in tls.crt has expired at 1970-01-24T03:33:20Z: renew it in the Secret"
    );
}
