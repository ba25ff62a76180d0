//! Authorities of nodes.

use postern_controller::authority::{Authority, HOSTS, SignError};
use proxy_common::distribution::SignRequest;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tonic::Code;
use webpki::{EndEntityCert, KeyUsage};

use crate::support::{TOKEN, World, authorized, code};

/// Whether a leaf for `host` under this authority of a node is accepted.
fn accepts(root: &[u8], node: &[u8], key: &KeyPair, host: &str) -> bool {
    let intermediate = CertificateDer::from(node.to_vec());
    let issuer = Issuer::from_ca_cert_der(&intermediate, key).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    verify(root, &[intermediate], leaf.der(), host)
}

fn verify(
    root: &[u8],
    intermediates: &[CertificateDer<'_>],
    leaf: &CertificateDer<'_>,
    host: &str,
) -> bool {
    let root = CertificateDer::from(root.to_vec());
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let leaf = EndEntityCert::try_from(leaf).unwrap();
    let chain = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        intermediates,
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    );
    let name = ServerName::try_from(host).unwrap();
    chain.is_ok() && leaf.verify_is_valid_for_subject_name(&name).is_ok()
}

fn request(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    request.der().to_vec()
}

fn sign(authority: &Authority, key: &KeyPair, hosts: &[&str]) -> CertificateDer<'static> {
    let hosts = hosts.iter().copied();
    let signed = authority.sign(&request(key), "node-1", hosts);
    signed.unwrap().certificate
}

#[tokio::test]
async fn a_node_can_vouch_for_what_it_is_granted_and_nothing_else() {
    let world = World::new().await;
    let controller = world.controller().await;
    let key = KeyPair::generate().unwrap();
    let message = SignRequest {
        csr: request(&key),
        node: "node-1".to_owned(),
    };
    let mut client = controller.agent(&world);
    let answer = client
        .sign_node_authority(authorized(message, Some(TOKEN)))
        .await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.hosts, ["api.example.com"]);
    assert_eq!(answer.root, world.authority().await.root_der().to_vec());
    let accepts = |host| accepts(&answer.root, &answer.certificate, &key, host);
    assert!(accepts("api.example.com"));
    for host in [
        "example.com",
        "other.example.com",
        "192.0.2.1",
        "2001:db8::1",
    ] {
        assert!(!accepts(host), "{host}");
    }
}

#[tokio::test]
async fn addresses_are_limited_as_names_are() {
    let authority = World::new().await.authority().await;
    let root = authority.root_der();
    let key = KeyPair::generate().unwrap();
    let node = sign(&authority, &key, &["192.0.2.1", "2001:db8::1"]);
    assert!(accepts(root, &node, &key, "192.0.2.1"));
    assert!(accepts(root, &node, &key, "2001:db8::1"));
    assert!(!accepts(root, &node, &key, "192.0.2.2"));
    assert!(!accepts(root, &node, &key, "api.example.com"));
    let nothing = sign(&authority, &key, &[]);
    for host in ["192.0.2.1", "2001:db8::1", "api.example.com"] {
        assert!(!accepts(root, &nothing, &key, host), "{host}");
    }
}

#[tokio::test]
async fn hosts_that_do_not_fit_are_left_out_and_the_others_work() {
    let authority = World::new().await.authority().await;
    let key = KeyPair::generate().unwrap();
    let label = "a".repeat(60);
    let hosts: Vec<String> = (0..1000).map(|it| format!("{label}{it}.example")).collect();
    let hosts = || hosts.iter().map(String::as_str);
    let signed = authority.sign(&request(&key), "node-1", hosts()).unwrap();
    assert!(signed.hosts.len() > 100 && signed.hosts.len() < 1000);
    assert!(signed.certificate.len() < HOSTS + 2048);
    let first = hosts().next().unwrap();
    assert!(signed.hosts.contains(first));
    let root = authority.root_der();
    assert!(accepts(root, &signed.certificate, &key, first));
    let last = hosts().next_back().unwrap();
    assert!(!signed.hosts.contains(last) && signed.left_out.contains(last));
    assert_eq!(signed.hosts.len() + signed.left_out.len(), 1000);
    assert!(!accepts(root, &signed.certificate, &key, last));
    let again = authority.sign(&request(&key), "node-1", hosts()).unwrap();
    assert_eq!(again.hosts, signed.hosts);
}

#[tokio::test]
async fn a_node_cannot_make_further_authorities() {
    let authority = World::new().await.authority().await;
    let key = KeyPair::generate().unwrap();
    let node = sign(&authority, &key, &["api.example.com"]);
    let issuer = Issuer::from_ca_cert_der(&node, &key).unwrap();
    let below = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let further = params.signed_by(&below, &issuer).unwrap();
    let issuer = Issuer::new(params, &below);
    let host = "api.example.com";
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer);
    let chain = [further.der().clone(), node];
    assert!(!verify(
        authority.root_der(),
        &chain,
        leaf.unwrap().der(),
        host
    ));
}

#[tokio::test]
async fn of_a_request_only_the_key_is_used() {
    let authority = World::new().await.authority().await;
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::new(vec!["evil.example.com".to_owned()]).unwrap();
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = wishes.serialize_request(&key).unwrap();
    let long = "n".repeat(200);
    let hosts = ["api.example.com"];
    let signed = authority.sign(csr.der(), &long, hosts);
    let node = signed.unwrap().certificate;
    assert!(accepts(
        authority.root_der(),
        &node,
        &key,
        "api.example.com"
    ));
    assert!(!accepts(
        authority.root_der(),
        &node,
        &key,
        "evil.example.com"
    ));
    let (_, parsed) = x509_parser::parse_x509_certificate(&node).unwrap();
    assert!(parsed.subject_alternative_name().unwrap().is_none());
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let name = parsed.subject().iter_common_name().next().unwrap();
    assert_eq!(name.as_str().unwrap().len(), 64);
    let life = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert_eq!(life, 25 * 60 * 60);
}

#[tokio::test]
async fn a_request_without_proof_of_its_key_is_refused() {
    let world = World::new().await;
    let controller = world.controller().await;
    let authority = world.authority().await;
    let hosts = ["api.example.com"];
    // The signature is at the end.
    let mut forged = request(&KeyPair::generate().unwrap());
    *forged.last_mut().unwrap() ^= 1;
    for csr in [&forged[..], b"", b"nonsense"] {
        let refused = authority.sign(csr, "node-1", hosts);
        assert!(matches!(refused, Err(SignError::Request { .. })));
        let message = SignRequest {
            csr: csr.to_vec(),
            node: "node-1".to_owned(),
        };
        let refused = controller
            .agent(&world)
            .sign_node_authority(authorized(message, Some(TOKEN)))
            .await;
        assert_eq!(code(refused), Code::InvalidArgument);
    }
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let refused = authority.sign(&request(&key), "node-1", hosts);
        assert!(matches!(refused, Err(SignError::KeyKind { .. })));
    }
}

#[tokio::test]
async fn nothing_is_signed_before_the_cluster_is_known() {
    let world = World::new().await;
    let controller = world.ignorant_controller().await;
    let message = SignRequest {
        csr: request(&KeyPair::generate().unwrap()),
        node: "node-1".to_owned(),
    };
    let refused = controller
        .agent(&world)
        .sign_node_authority(authorized(message, Some(TOKEN)))
        .await;
    assert_eq!(code(refused), Code::Unavailable);
}
