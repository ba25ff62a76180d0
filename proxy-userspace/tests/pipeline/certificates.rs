//! Upstreams that ask for a certificate: what they are shown, and what is said when they do not
//! like it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::{
    limits::Tuning,
    state::{ClientCertificate, Connector, Credential, Scheme},
    upstream::HttpVersion,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, crypto::aws_lc_rs::default_provider, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::rig::{self, Rig, soon};

/// An authority for servers and clients.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params
            .self_signed(&key)
            .expect("an authority")
            .der()
            .clone();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    pub(crate) fn issue(
        &self,
        names: &[&str],
        end: SystemTime,
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = (end - Duration::from_hours(2)).into();
        params.not_after = end.into();
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        (leaf.der().clone(), key)
    }

    /// One of a client, valid until then.
    fn client(&self, end: SystemTime) -> Arc<ClientCertificate> {
        let (leaf, key) = self.issue(&[], end);
        let certificate = ClientCertificate::from_der(vec![leaf], key.serialize_der().into());
        Arc::new(certificate.expect("a certificate"))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("an authority");
        roots.into()
    }
}

pub(crate) fn soon_over() -> SystemTime {
    SystemTime::now() + Duration::from_hours(1)
}

/// A server that tells how long the leaf is that it was shown; 0: none.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Asks for certificates of `clients`, and may do without.
    async fn start(authority: &Authority, clients: &Authority, demands: bool) -> Self {
        let (leaf, key) = authority.issue(&["127.0.0.1"], soon_over());
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(clients.roots(), Arc::clone(&provider));
        let verifier = if demands {
            verifier
        } else {
            verifier.allow_unauthenticated()
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(
                vec![leaf],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a configuration");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(tls.clone(), stream));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// A Connector to it with this certificate.
    fn connector(
        &self,
        authority: &Authority,
        certificate: Option<&Arc<ClientCertificate>>,
    ) -> Connector {
        let mut connector = rig::connector(self.address);
        connector.address.scheme = Scheme::Https;
        connector.extra_roots = Arc::new([authority.der.clone()]);
        connector.credential = certificate.map(|certificate| Credential::Certificate {
            certificate: Arc::clone(certificate),
            generated: None,
        });
        connector
    }

    fn rig(&self, connector: Connector) -> Rig {
        Rig::of(connector, self.address, Tuning::default())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(tls: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let shown = shown.map(|it| hex(it)).unwrap_or_default();
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = Response::new(Full::new(Bytes::from(shown.clone())));
        async move { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(stream);
    if is_h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await;
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// What the server says that it was shown.
fn shown(certificate: &ClientCertificate) -> String {
    hex(&certificate.chain()[0])
}

/// Status and text of an answer to a request on a new connection.
async fn get(rig: &Rig, version: HttpVersion, path: &str) -> (u16, String) {
    let address = rig.listen(version).await;
    let io = TokioIo::new(TcpStream::connect(address).await.expect("a connection"));
    let request = Request::get(format!("https://{}{path}", rig.host()))
        .header("host", rig.host())
        .body(Full::<Bytes>::default())
        .expect("a request");
    let answer = match version {
        HttpVersion::Http1 => {
            let handshake = hyper::client::conn::http1::handshake(io).await;
            let (mut sender, connection) = handshake.expect("a handshake");
            tokio::spawn(connection);
            soon(sender.send_request(request)).await
        }
        HttpVersion::Http2 => {
            let executor = TokioExecutor::new();
            let handshake = hyper::client::conn::http2::handshake(executor, io).await;
            let (mut sender, connection) = handshake.expect("a handshake");
            tokio::spawn(connection);
            soon(sender.send_request(request)).await
        }
    };
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    let body = soon(answer.into_body().collect()).await.expect("a body");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    (status, text)
}

#[tokio::test]
async fn a_certificate_is_shown_where_one_is_demanded() {
    let authority = Authority::new();
    let server = Server::start(&authority, &authority, true).await;
    let certificate = authority.client(soon_over());
    let rig = server.rig(server.connector(&authority, Some(&certificate)));
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        for _ in 0..2 {
            let answer = get(&rig, version, "/").await;
            assert_eq!(answer, (200, shown(&certificate)), "{version:?}");
        }
    }
    assert_eq!(server.connections(), 2, "one of each version is kept");
}

#[tokio::test]
async fn a_path_that_no_connector_claims_is_asked_by_nobody() {
    let authority = Authority::new();
    let server = Server::start(&authority, &authority, false).await;
    let certificate = authority.client(soon_over());
    let mut connector = server.connector(&authority, Some(&certificate));
    connector.address.path = "/team".into();
    let rig = server.rig(connector);
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        // In this order: neither connections nor sessions of the one are used by the other.
        let own = get(&rig, version, "/team/a").await;
        assert_eq!(own, (200, shown(&certificate)), "{version:?}");
        let other = get(&rig, version, "/other").await;
        assert_eq!(other, (200, String::new()), "{version:?}");
        let own = get(&rig, version, "/team/b").await;
        assert_eq!(own, (200, shown(&certificate)), "{version:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_by_the_next_request() {
    let authority = Authority::new();
    let server = Server::start(&authority, &authority, true).await;
    let (old, new) = (authority.client(soon_over()), authority.client(soon_over()));
    let rig = server.rig(server.connector(&authority, Some(&old)));
    let versions = [HttpVersion::Http1, HttpVersion::Http2];
    for version in versions {
        assert_eq!(get(&rig, version, "/").await, (200, shown(&old)));
    }
    rig.replace(server.connector(&authority, Some(&new)));
    for version in versions {
        assert_eq!(get(&rig, version, "/").await, (200, shown(&new)));
    }
}

#[tokio::test]
async fn what_has_expired_is_not_shown() {
    let authority = Authority::new();
    let server = Server::start(&authority, &authority, true).await;
    let over = SystemTime::now() - Duration::from_secs(10);
    let rig = server.rig(server.connector(&authority, Some(&authority.client(over))));
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let (status, text) = get(&rig, version, "/").await;
        assert_eq!(status, 503);
        assert!(
            text.contains("the client certificate of connector default/api has expired at "),
            "{text}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_upstream_that_refuses_says_why() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start(&authority, &authority, true).await;
    let unknown = stranger.client(soon_over());
    for (certificate, expected) in [
        (
            None,
            "it wants a client certificate: the Connector has none",
        ),
        (
            Some(&unknown),
            "it does not accept the Connector's client certificate",
        ),
    ] {
        let rig = server.rig(server.connector(&authority, certificate));
        for version in [HttpVersion::Http1, HttpVersion::Http2] {
            let (status, text) = get(&rig, version, "/").await;
            assert_eq!(status, 502, "{version:?} {text}");
            assert!(text.contains(expected), "{version:?} {text}");
        }
    }
}
