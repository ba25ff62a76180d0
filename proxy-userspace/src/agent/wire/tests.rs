use super::*;

fn message(rego: &str) -> wire::Connector {
    let generated = wire::Generated {
        rego: rego.to_owned(),
        data: vec![wire::SecretValue {
            key: "token".to_owned(),
            value: "hunter2".to_owned(),
        }],
        params: [("realm".to_owned(), "blue".to_owned())].into(),
    };
    wire::Connector {
        id: 1,
        namespace: "team".to_owned(),
        name: "api".to_owned(),
        addresses: vec![wire::Address {
            host: "api.example.com".to_owned(),
            port: 443,
            ..wire::Address::default()
        }],
        credential: Some(wire::Credential {
            kind: Some(Kind::Generated(generated)),
        }),
        usable: true,
        ..wire::Connector::default()
    }
}

#[test]
fn a_generator_arrives_with_what_it_is_given() {
    let rego = "package proxy\n\
                auth := {\"position\": \"query\", \"auth\": {\"k\": input.data.token}}";
    let (granted, faults) = granted(&message(rego)).expect("a Connector");
    assert!(granted.binding.usable && faults.is_empty());
    let Some(Credential::Generated(generated)) = &granted.connector.credential else {
        panic!("{granted:?}");
    };
    assert_eq!(generated.rego(), rego);
    assert_eq!(generated.params()["realm"], "blue");
    assert!(!format!("{granted:?}").contains("hunter2"));
}

#[test]
fn a_certificate_arrives_with_its_key_or_not_at_all() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::default().self_signed(&key);
    let leaf = leaf.expect("a certificate").der().to_vec();
    let sent = |chain: &[&[u8]], key: &[u8]| {
        let certificate = wire::Certificate {
            chain: chain.iter().map(|it| it.to_vec()).collect(),
            key: key.to_vec(),
            generated: None,
        };
        let mut message = message("");
        message.credential = Some(wire::Credential {
            kind: Some(Kind::Certificate(certificate)),
        });
        granted(&message).expect("a Connector")
    };
    let (arrived, faults) = sent(&[&leaf], key.serialized_der());
    assert!(arrived.binding.usable && faults.is_empty());
    let certificate = arrived.connector.certificate().expect("a certificate");
    assert_eq!(*certificate.chain()[0], *leaf);
    assert_eq!(certificate.key(), key.serialized_der());

    let other = rcgen::KeyPair::generate().expect("a key");
    for (chain, key, expected) in [
        (
            &[&*leaf][..],
            other.serialized_der(),
            "tls.key) does not belong",
        ),
        (
            &[&leaf[1..]],
            key.serialized_der(),
            "tls.crt) certificate 1 cannot",
        ),
        (&[], key.serialized_der(), "tls.crt) has no"),
        (&[&leaf], b"hunter2", "tls.key) holds no private key"),
    ] {
        let (refused, faults) = sent(chain, key);
        assert!(!refused.binding.usable && refused.connector.credential.is_none());
        let fault = faults.first().expect("a fault").to_string();
        assert!(
            fault.contains("team/api") && fault.contains(expected),
            "{fault}"
        );
    }
}

#[test]
fn what_cannot_be_evaluated_or_understood_is_refused() {
    let mut unknown = message("");
    unknown.credential = Some(wire::Credential { kind: None });
    for (message, expected) in [
        (message("package proxy\nauth := trace(1)"), "line 2"),
        (
            message("package proxy\nauth := input.data.none"),
            "undefined",
        ),
        (unknown, "update the agent"),
    ] {
        let (granted, faults) = granted(&message).expect("a Connector");
        assert!(!granted.binding.usable && granted.connector.credential.is_none());
        let [fault] = faults.as_slice() else {
            panic!("{faults:?}");
        };
        let fault = fault.to_string();
        assert!(
            fault.contains("team/api") && fault.contains(expected),
            "{fault}"
        );
    }
}

fn at(host: &str, port: u32) -> wire::Address {
    wire::Address {
        tls: true,
        host: host.to_owned(),
        port,
        path: String::new(),
    }
}

/// What is in force of a Connector with these addresses: hosts and ports, whether it is
/// usable, and what is wrong.
fn in_force(addresses: Vec<wire::Address>) -> (Vec<String>, bool, Vec<String>) {
    let message = wire::Connector {
        addresses,
        credential: None,
        ..message("")
    };
    let (granted, faults) = granted(&message).expect("a Connector");
    let addresses = granted.connector.addresses();
    (
        addresses.map(Address::to_string).collect(),
        granted.binding.usable,
        faults.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn an_extension_that_cannot_be_costs_nothing_but_itself() {
    let good = || at("api.example.com", 443);
    for bad in [
        at("other.example.com", 65_536),
        at("other.example.com", 0),
        at("", 443),
        at("other.example.com/path", 443),
        at("me@other.example.com", 443),
        at("OTHER.example.com", 443),
    ] {
        let more = at("192.0.2.1", 8443);
        let (addresses, usable, faults) = in_force(vec![good(), bad.clone(), more]);
        assert!(usable, "{}:{}", bad.host, bad.port);
        assert_eq!(
            addresses,
            ["https://api.example.com", "https://192.0.2.1:8443"],
            "{}:{}",
            bad.host,
            bad.port
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("team/api goes without its address extension 1"));
    }
    let (addresses, usable, faults) = in_force(vec![good(), at("2001:db8::1", 443)]);
    assert!(usable && faults.is_empty(), "{faults:?}");
    assert_eq!(addresses[1], "https://[2001:db8::1]");
}

#[test]
fn a_connector_whose_own_address_cannot_be_is_refused_where_that_is_possible() {
    let extension = || at("more.example.com", 443);
    let (addresses, usable, faults) = in_force(vec![at("api.example.com", 70_000), extension()]);
    assert!(!usable);
    assert_eq!(
        addresses,
        ["https://api.example.com", "https://more.example.com"]
    );
    assert!(faults[0].contains("team/api is not in force"), "{faults:?}");
    let (addresses, usable, _) = in_force(vec![at("", 443), extension()]);
    assert!(!usable);
    assert_eq!(addresses, ["https://more.example.com"]);
    for addresses in [vec![], vec![at("", 443)]] {
        let message = wire::Connector {
            addresses,
            ..message("")
        };
        let error = granted(&message).expect_err("nothing to refuse");
        assert!(matches!(error, WireError::NoAddress(_)), "{error}");
    }
}
