//! TLS on both sides of the proxy, without a kernel: a client on one end of a pipe, a server on
//! loopback that tells which handshakes it made.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn as client, server::conn as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::{
    admission::Share,
    gate::{Policies, Prepared},
    intercept,
    limits::Tuning,
    proxy::{Proxy, Worker},
    state::{
        Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy,
        OnUntrustedCa, Protocol, Scheme,
    },
    telemetry::Counters,
    tls::{Authority, H2, HTTP1, Interceptor, Roots},
    workload::{Egress, Enrolment, PolicyId, Workload},
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use testkit::Pki;
use tokio::{io::DuplexStream, net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

const HOST: &str = "localhost";
const POLICY: PolicyId = PolicyId(1);
const ACME: &[u8] = b"acme-tls/1";

type Kinds = Arc<Mutex<Vec<HandshakeKind>>>;

/// An upstream, and a proxy with Connectors to it.
struct Sides {
    pki: Pki,
    worker: Arc<Worker>,
    workload: Arc<Enrolment>,
    root: CertificateDer<'static>,
    port: u16,
    kinds: Kinds,
}

impl Sides {
    /// The upstream speaks these protocols, in this order, and closes after each answer.
    async fn new(alpn: &[&[u8]], versions: &[&'static SupportedProtocolVersion]) -> Result<Self> {
        let pki = Pki::new()?;
        let files = pki.server(&[HOST])?;
        let chain = CertificateDer::pem_file_iter(&files.cert)?.collect::<Result<_, _>>()?;
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key)?)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let kinds = Kinds::default();
        tokio::spawn(upstream(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&kinds),
        ));

        let (authority, root) = Authority::with_root(&[HOST.to_owned()])?;
        let interceptor = Interceptor::new()?;
        interceptor.set_authority(authority);
        let proxy = Arc::new(Proxy {
            policies: ArcSwap::default(),
            interceptor,
            resolver: Arc::default(),
            admission: Arc::default(),
            counters: Arc::default(),
            tuning: Tuning::default(),
        });
        let workload = Workload {
            cgroup_id: 1,
            name: "default/pod".into(),
            policy: POLICY,
        };
        let sides = Self {
            pki,
            worker: Worker::new(proxy),
            workload: Arc::new(Enrolment::new(workload, Egress::own())),
            root: CertificateDer::from_pem_slice(root.as_bytes())?,
            port,
            kinds,
        };
        sides.grant(&[(1, "")])?;
        Ok(sides)
    }

    /// From now on there are these Connectors, by number and path, all prepared anew.
    fn grant(&self, connectors: &[(u32, &str)]) -> Result<()> {
        let roots: Vec<_> =
            CertificateDer::pem_file_iter(self.pki.ca())?.collect::<Result<_, _>>()?;
        let prepared = connectors.iter().map(|(id, path)| {
            let connector = Connector {
                id: ConnectorId(*id),
                namespace: "default".into(),
                name: format!("c{id}"),
                class: "generic-bearer".into(),
                address: Address {
                    scheme: Scheme::Https,
                    host: HOST.into(),
                    port: self.port,
                    path: (*path).into(),
                },
                extensions: Vec::new(),
                protocol: Protocol::Http,
                credential: Some(Credential::Bearer {
                    token: format!("token-{id}").into(),
                }),
                client_authorization: ClientAuthorization::Replace,
                failure_policy: FailurePolicy::Closed,
                on_untrusted_ca: OnUntrustedCa::Fail,
                extra_roots: roots.clone().into(),
            };
            Prepared::new(&Arc::new(connector), &Roots::none())
        });
        let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
        let policies = Policies::new([(POLICY, prepared)]);
        self.worker.proxy.policies.store(Arc::new(policies));
        Ok(())
    }

    /// A client's connection through the proxy.
    async fn connect(&self, offered: &[&[u8]]) -> Result<TlsStream<DuplexStream>> {
        self.begin(offered).await?.0
    }

    /// How a client's handshake ends, and what serves it.
    async fn begin(
        &self,
        offered: &[&[u8]],
    ) -> Result<(Result<TlsStream<DuplexStream>>, JoinHandle<()>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let routes = self
            .worker
            .proxy
            .policies
            .load()
            .routes(POLICY)
            .context("no policy")?;
        let site = routes
            .site(Scheme::Https, HOST, self.port)
            .context("no site")?;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (worker, workload) = (Arc::clone(&self.worker), Arc::clone(&self.workload));
        let Proxy {
            admission,
            tuning,
            counters,
            ..
        } = &*self.worker.proxy;
        let slot = Arc::new(Share::new(admission, tuning, counters).enter());
        let served = tokio::spawn(intercept::tls(worker, workload, site, slot, theirs));
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect(ServerName::try_from(HOST)?, ours).await;
        Ok((connected.map_err(Into::into), served))
    }

    /// What a client gets that offers `offered`: the protocol, and the answer to a request.
    async fn ask(&self, offered: &[&[u8]], path: &str) -> Result<Asked> {
        let stream = self.connect(offered).await?;
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let io = TokioIo::new(stream);
        let body = Empty::<Bytes>::new();
        let response = if alpn.as_deref() == Some(H2) {
            let (mut sender, connection) =
                client::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            let uri = format!("https://{HOST}:{}{path}", self.port);
            sender.send_request(Request::get(uri).body(body)?).await?
        } else {
            let (mut sender, connection) = client::http1::handshake(io).await?;
            tokio::spawn(connection);
            let request = Request::get(path).header("host", format!("{HOST}:{}", self.port));
            sender.send_request(request.body(body)?).await?
        };
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Asked {
            alpn,
            status,
            body: String::from_utf8(body.to_vec())?,
        })
    }

    /// The handshakes that the upstream made since it was last asked.
    fn handshakes(&self) -> Vec<HandshakeKind> {
        std::mem::take(&mut self.kinds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Asked {
    alpn: Option<Vec<u8>>,
    status: StatusCode,
    body: String,
}

/// Answers with the version that it was asked in, and what it was shown.
async fn upstream(listener: TcpListener, acceptor: TlsAcceptor, kinds: Kinds) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, kinds) = (acceptor.clone(), Arc::clone(&kinds));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let session = &stream.get_ref().1;
            kinds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(session.handshake_kind());
            let is_h2 = session.alpn_protocol() == Some(H2);
            let service = service_fn(|request: Request<Incoming>| async move {
                let shown = request.headers().get("authorization");
                let text = format!("{:?} {shown:?}", request.version());
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(text)))
            });
            let io = TokioIo::new(stream);
            if is_h2 {
                let server = server::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(io, service).await;
            } else {
                let mut server = server::http1::Builder::new();
                let _ = server.keep_alive(false).serve_connection(io, service).await;
            }
        });
    }
}

/// A client's offer, what it gets of it, and the status of the answer.
type Case<'a> = (&'a [&'a [u8]], Option<&'a [u8]>, StatusCode);

#[tokio::test]
async fn both_sides_speak_what_the_upstream_picks_of_the_clients_offer() -> Result<()> {
    let ok = StatusCode::OK;
    let bad = StatusCode::BAD_GATEWAY;
    let none: Case<'_> = (&[], None, ok);
    // What the upstream speaks, and what that means for clients.
    let table: [(&[&[u8]], [Case<'_>; 6]); 4] = [
        (
            &[H2, HTTP1],
            [
                none,
                (&[H2], Some(H2), ok),
                (&[HTTP1], Some(HTTP1), ok),
                (&[HTTP1, H2], Some(H2), ok),
                (&[ACME, HTTP1], Some(HTTP1), ok),
                (&[ACME, H2], Some(H2), ok),
            ],
        ),
        (
            &[HTTP1],
            [
                none,
                (&[H2], Some(H2), bad),
                (&[HTTP1], Some(HTTP1), ok),
                (&[H2, HTTP1], Some(HTTP1), ok),
                (&[ACME, HTTP1], Some(HTTP1), ok),
                (&[ACME, H2, HTTP1], Some(HTTP1), ok),
            ],
        ),
        (
            &[H2],
            [
                // An upstream without HTTP/1.1 has nothing to say to a client without HTTP/2.
                (&[], None, bad),
                (&[H2], Some(H2), ok),
                (&[HTTP1], Some(HTTP1), bad),
                (&[H2, HTTP1], Some(H2), ok),
                (&[HTTP1, H2], Some(H2), ok),
                (&[ACME, H2], Some(H2), ok),
            ],
        ),
        // It knows nothing of ALPN.
        (
            &[],
            [
                none,
                (&[H2], Some(H2), bad),
                (&[HTTP1], Some(HTTP1), ok),
                (&[H2, HTTP1], Some(HTTP1), ok),
                (&[HTTP1, H2], Some(HTTP1), ok),
                (&[ACME, HTTP1], Some(HTTP1), ok),
            ],
        ),
    ];
    for (spoken, cases) in table {
        let sides = Sides::new(spoken, &[&TLS13, &TLS12]).await?;
        for (offered, alpn, status) in cases {
            let asked = sides.ask(offered, "/").await;
            let what = || format!("{spoken:?}, {offered:?}");
            let asked = asked.with_context(what)?;
            ensure!(asked.alpn.as_deref() == alpn, "{}: {asked:?}", what());
            ensure!(asked.status == status, "{}: {asked:?}", what());
            if status == ok {
                let version = if alpn == Some(H2) {
                    "HTTP/2.0"
                } else {
                    "HTTP/1.1"
                };
                ensure!(asked.body.starts_with(version), "{}: {asked:?}", what());
                ensure!(
                    asked.body.contains("Bearer token-1"),
                    "{}: {asked:?}",
                    what()
                );
            } else {
                ensure!(asked.body.contains(HOST), "{}: {asked:?}", what());
            }
        }
        let stranger = sides.connect(&[ACME]).await;
        let refused = stranger.err().context("a protocol that nobody speaks")?;
        ensure!(
            refused.to_string().contains("NoApplicationProtocol"),
            "{refused}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn sessions_with_an_upstream_are_resumed_by_one_credential_only() -> Result<()> {
    use HandshakeKind::{Full, Resumed};
    for version in [&TLS13, &TLS12] {
        let sides = Sides::new(&[HTTP1], &[version]).await?;
        sides.grant(&[(1, "/one"), (2, "/two")])?;
        let ask = async |path: &str| -> Result<Vec<HandshakeKind>> {
            let asked = sides.ask(&[HTTP1], path).await?;
            ensure!(asked.status == StatusCode::OK, "{asked:?}");
            Ok(sides.handshakes())
        };
        ensure!(ask("/one").await? == [Full], "{version:?}");
        ensure!(ask("/one").await? == [Resumed], "{version:?}");
        ensure!(
            ask("/two").await? == [Full],
            "{version:?}: another Connector"
        );
        ensure!(ask("/two").await? == [Resumed], "{version:?}");
        // A Connector that has changed is prepared anew.
        sides.grant(&[(1, "/one"), (2, "/two")])?;
        ensure!(
            ask("/one").await? == [Full],
            "{version:?}: another generation"
        );
        ensure!(ask("/one").await? == [Resumed], "{version:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_nobody_vouches_for_says_nothing_about_trust() -> Result<()> {
    let sides = Sides::new(&[HTTP1], &[&TLS13]).await?;
    // The root is another one each time, so the client takes none of the certificates.
    for (vouches_for, untrusting) in [("elsewhere.test", 0), (HOST, 1)] {
        let (authority, _) = Authority::with_root(&[vouches_for.to_owned()])?;
        sides.worker.proxy.interceptor.set_authority(authority);
        let (connected, served) = sides.begin(&[HTTP1]).await?;
        ensure!(connected.is_err(), "a stranger's certificate was taken");
        served.await?;
        let counted = Counters::read(&sides.worker.proxy.counters.untrusting);
        ensure!(counted == untrusting, "{vouches_for}: {counted}");
    }
    Ok(())
}
