//! TLS and connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_controller::authority::SERVER_LIFE;
use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::support::{Controller, NAMESPACE, Stream, TOKEN, World, code, soon};
use proxy_common::distribution::distribution_client::DistributionClient;

#[tokio::test]
async fn an_agent_with_another_root_does_not_talk() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let mut client = DistributionClient::new(controller.channel(&other.pem()));
    let refused = Stream::open(&mut client, Some(TOKEN)).await;
    assert_eq!(code(refused), Code::Unavailable);
    assert_eq!(world.count("create", "tokenreviews"), 0);
}

#[tokio::test]
async fn slow_handshakes_hold_up_nobody() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut socket = TcpStream::connect(controller.address).await.unwrap();
        // A record that never becomes complete.
        socket.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        slow.push(socket);
    }
    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    assert!(stream.take().await.full);
    drop(slow);
}

#[tokio::test]
async fn the_certificate_is_for_the_service_and_replaced_while_serving() {
    let world = World::new().await;
    let authority = world.authority().await;
    let controller = world.controller().await;
    let root = authority.root_der();
    for name in [
        "postern-controller".to_owned(),
        format!("postern-controller.{NAMESPACE}"),
        format!("postern-controller.{NAMESPACE}.svc"),
        format!("postern-controller.{NAMESPACE}.svc.cluster.local"),
    ] {
        assert!(
            presented(&controller, root, &name).await.is_some(),
            "{name}"
        );
    }
    let service = format!("postern-controller.{NAMESPACE}.svc");
    assert!(
        presented(&controller, root, "other.example.com")
            .await
            .is_none()
    );

    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    stream.take().await;
    let before = presented(&controller, root, &service).await.unwrap();
    let certificate = &controller.certificate;
    let now = SystemTime::now();
    assert!(!certificate.renew_if_due(now).unwrap());
    assert_eq!(
        presented(&controller, root, &service).await.unwrap(),
        before
    );
    let later = now + SERVER_LIFE / 2 + Duration::from_mins(1);
    assert!(certificate.renew_if_due(later).unwrap());
    assert_ne!(
        presented(&controller, root, &service).await.unwrap(),
        before
    );
    // Streams that run are not touched.
    world.rotate("after the new certificate", "2");
    assert_eq!(stream.take().await.version, 2);
}

/// The certificate that a client gets who asks for this name and trusts this root.
async fn presented(
    controller: &Controller,
    root: &CertificateDer<'static>,
    name: &str,
) -> Option<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(controller.address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = soon(connector.connect(name, socket)).await.ok()?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    Some(certificates[0].clone())
}
