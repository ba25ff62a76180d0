//! The root and its Secret.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake_apiserver::{Fault, Matching};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use postern_controller::authority::{Authority, AuthorityError, ROOT_SECRET, Replaced, RootFault};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::logs;
use crate::support::{NAMESPACE, Stream, World, soon};

/// Says whether a fault is the one that was made.
type Expected = fn(&RootFault) -> bool;

fn value(secret: &Value, key: &str) -> String {
    let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap());
    String::from_utf8(bytes.unwrap()).unwrap()
}

#[tokio::test]
async fn replicas_that_start_together_agree() {
    let world = World::new().await;
    let load = || Authority::load_or_create(&world.client, NAMESPACE);
    let (one, two, three) = soon(async { tokio::join!(load(), load(), load()) }).await;
    let one = one.unwrap();
    assert_eq!(one.root_der(), two.unwrap().root_der());
    assert_eq!(one.root_der(), three.unwrap().root_der());
    let again = load().await.unwrap();
    assert_eq!(one.root_pem(), again.root_pem());
    let secret = world
        .api
        .handle()
        .object("v1", "secrets", NAMESPACE, ROOT_SECRET)
        .unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(value(&secret, "tls.crt"), one.root_pem());
}

#[tokio::test]
async fn a_root_that_is_replaced_or_deleted_is_noticed() {
    let world = World::new().await;
    let secrets: Api<Secret> = Api::namespaced(world.admin(), NAMESPACE);
    let every = Duration::from_millis(20);
    let gone = |error: &AuthorityError| {
        matches!(
            error,
            AuthorityError::Replaced {
                how: Replaced::Gone,
                ..
            }
        )
    };
    for deleted_only in [true, false] {
        let authority = world.authority().await;
        let mut replaced = std::pin::pin!(authority.until_replaced(&world.client, every));
        // What is as it was, and an API server that is away, are no reason.
        let looks = world.count("get", "secrets") + 3;
        world
            .api
            .handle()
            .fail_matching(Matching::new("get", "secrets"), 1, Fault::Unavailable);
        let looked = async {
            while world.count("get", "secrets") < looks {
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            error = &mut replaced => panic!("{error}"),
            () = soon(looked) => {}
        }
        secrets
            .delete(ROOT_SECRET, &DeleteParams::default())
            .await
            .unwrap();
        if !deleted_only {
            world.authority().await;
        }
        let error = soon(replaced).await;
        assert!(gone(&error) == deleted_only, "{error}");
        assert!(error.to_string().contains("postern-system/postern-root-ca"));
    }
}

#[tokio::test]
async fn the_root_may_sign_one_level_of_authorities_for_ten_years() {
    let authority = World::new().await.authority().await;
    let (_, root) = x509_parser::parse_x509_certificate(authority.root_der()).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(1));
    let years = root.validity().time_to_expiration().unwrap().whole_days() / 365;
    assert_eq!(years, 9, "and most of the tenth");
    assert!(root.subject_pki.parsed().is_ok());
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let world = World::new().await;
    let handle = world.api.handle();
    handle.fail_matching(Matching::new("get", "secrets"), 2, Fault::Unavailable);
    handle.fail_matching(Matching::new("create", "secrets"), 1, Fault::InternalError);
    let authority = world.authority().await;
    assert_eq!(world.authority().await.root_der(), authority.root_der());
    assert_eq!(world.count("create", "secrets"), 2);
}

#[tokio::test]
async fn a_secret_of_no_use_is_named_and_left_alone() {
    let pem = |params: &CertificateParams, key: &KeyPair| params.self_signed(key).unwrap().pem();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let sound = pem(&root, &key);

    let mut leaf = root.clone();
    leaf.is_ca = IsCa::NoCa;
    let mut shallow = root.clone();
    shallow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let mut expired = root.clone();
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let mut below = root.clone();
    below.distinguished_name.push(DnType::CommonName, "below");
    let issuer = Issuer::from_params(&root, &other);
    let below = below.signed_by(&key, &issuer).unwrap().pem();

    let key_pem = key.serialize_pem();
    let both = |certificate: &str, key: &str| json!({"tls.crt": certificate, "tls.key": key});
    let cases: [(&str, Value, Expected); 11] = [
        ("empty", json!({}), |it| {
            *it == RootFault::Missing("tls.crt")
        }),
        ("no key", json!({"tls.crt": sound}), |it| {
            *it == RootFault::Missing("tls.key")
        }),
        ("nonsense", both("nonsense", &key_pem), |it| {
            *it == RootFault::Certificates(0)
        }),
        ("two", both(&format!("{sound}{sound}"), &key_pem), |it| {
            *it == RootFault::Certificates(2)
        }),
        (
            "no DER",
            both(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key_pem,
            ),
            |it| *it == RootFault::Malformed,
        ),
        ("leaf", both(&pem(&leaf, &key), &key_pem), |it| {
            *it == RootFault::NotAnAuthority
        }),
        ("shallow", both(&pem(&shallow, &key), &key_pem), |it| {
            *it == RootFault::NotAnAuthority
        }),
        ("intermediate", both(&below, &key_pem), |it| {
            *it == RootFault::NotARoot
        }),
        ("expired", both(&pem(&expired, &key), &key_pem), |it| {
            matches!(it, RootFault::NotValid { .. })
        }),
        ("key nonsense", both(&sound, "nonsense"), |it| {
            *it == RootFault::Key
        }),
        ("other key", both(&sound, &other.serialize_pem()), |it| {
            *it == RootFault::OtherKey
        }),
    ];
    for (name, values, expected) in cases {
        let world = World::new().await;
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"namespace": NAMESPACE, "name": ROOT_SECRET},
            "stringData": values,
        });
        let handle = world.api.handle();
        handle.create("v1", "secrets", NAMESPACE, object).unwrap();
        let loaded = soon(Authority::load_or_create(&world.client, NAMESPACE)).await;
        let error = loaded.err().expect(name);
        assert!(
            error.to_string().contains("postern-system/postern-root-ca"),
            "{error}"
        );
        let AuthorityError::Root { fault, .. } = error else {
            panic!("{name}: {error}");
        };
        assert!(expected(&fault), "{name}: {fault}");
        assert!(handle.writes().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_root_of_ones_own_is_used() {
    let world = World::new().await;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": NAMESPACE, "name": ROOT_SECRET},
        // What else is in the text is for nobody.
        "stringData": {
            "tls.crt": format!("{}{}", key.serialize_pem(), certificate.pem()),
            "tls.key": key.serialize_pem(),
        },
    });
    let handle = world.api.handle();
    handle.create("v1", "secrets", NAMESPACE, object).unwrap();
    let controller = world.controller().await;
    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    assert!(stream.take().await.full);
    assert_eq!(world.authority().await.root_der(), certificate.der());
    assert!(!world.bundle(NAMESPACE).contains("PRIVATE"));
}

#[tokio::test]
async fn the_private_key_is_in_its_secret_and_nowhere_else() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    stream.take().await;
    let handle = world.api.handle();
    let secret = handle
        .object("v1", "secrets", NAMESPACE, ROOT_SECRET)
        .unwrap();
    let pem = value(&secret, "tls.key");
    // Any line of it, as PEM has it and as the Secret has it.
    let lines: Vec<_> = pem.lines().filter(|line| !line.contains("---")).collect();
    assert!(lines.len() > 1);
    let encoded = secret["data"]["tls.key"].as_str().unwrap();
    for text in lines.iter().copied().chain([encoded]) {
        assert!(!logs::contains(text));
    }
    let mut seen = 0;
    for (plural, namespace) in [("secrets", ""), ("configmaps", ""), ("events", "")] {
        for object in handle.objects("v1", plural, namespace).unwrap() {
            let is_root = object["metadata"]["name"] == ROOT_SECRET;
            let text = object.to_string();
            let found = lines.iter().any(|line| text.contains(line)) || text.contains(encoded);
            assert_eq!(found, is_root, "{}", object["metadata"]["name"]);
            seen += 1;
        }
    }
    assert!(seen >= 2);
}
