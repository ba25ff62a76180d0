//! A workload with one Connector, an upstream of raw bytes, and clients of raw bytes.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http_body::Body;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::{
    admission::{Admission, Share},
    gate::{Policies, Prepared},
    intercept,
    limits::Tuning,
    proxy::{Proxy, Worker},
    state::{
        Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy,
        OnUntrustedCa, Protocol, Scheme,
    },
    telemetry::Counters,
    tls::{Interceptor, Roots},
    upstream::HttpVersion,
    workload::{Egress, Enrolment, PolicyId, Workload},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

pub(crate) const TOKEN: &str = "t0ken-that-nobody-may-see";
/// For what has to happen, however slow the machine is.
const PATIENCE: Duration = Duration::from_mins(1);
const POLICY: PolicyId = PolicyId(1);

/// What must come to pass.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what)
        .await
        .expect("it never came to that")
}

/// The proxy in front of one upstream.
pub(crate) struct Rig {
    pub(crate) worker: Arc<Worker>,
    pub(crate) workload: Arc<Enrolment>,
    /// The workload's connections.
    pub(crate) share: Arc<Share>,
    upstream: SocketAddr,
    scheme: Scheme,
}

impl Rig {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self::tuned(upstream, Tuning::default())
    }

    pub(crate) fn tuned(upstream: SocketAddr, tuning: Tuning) -> Self {
        Self::of(connector(upstream), upstream, tuning)
    }

    /// In front of the upstream of this Connector.
    pub(crate) fn of(connector: Connector, upstream: SocketAddr, tuning: Tuning) -> Self {
        let scheme = connector.address.scheme;
        let prepared = prepared(connector);
        let proxy = Proxy {
            policies: ArcSwap::from_pointee(Policies::new([(POLICY, vec![prepared])])),
            interceptor: Interceptor::new().expect("a key"),
            resolver: Arc::default(),
            admission: Arc::new(Admission::new(&tuning)),
            counters: Arc::default(),
            tuning,
        };
        let workload = Workload {
            cgroup_id: 1,
            name: "default/pod".into(),
            policy: POLICY,
        };
        Self {
            scheme,
            share: Share::new(&proxy.admission, &proxy.tuning, &proxy.counters),
            worker: Worker::new(Arc::new(proxy)),
            workload: Arc::new(Enrolment::new(workload, Egress::own())),
            upstream,
        }
    }

    /// The upstream's name, as clients have to write it.
    pub(crate) fn host(&self) -> String {
        self.upstream.to_string()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.worker.proxy.counters
    }

    /// Puts another Connector in the place of the only one, as a node does.
    pub(crate) fn replace(&self, connector: Connector) {
        let id = connector.id;
        let policies = Policies::new([(POLICY, vec![prepared(connector)])]);
        self.worker.proxy.policies.store(Arc::new(policies));
        self.worker.upstream.forget_connectors(&[id].into());
    }

    /// Serves connections as if they had been redirected.
    pub(crate) async fn listen(&self, version: HttpVersion) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (worker, workload) = (Arc::clone(&self.worker), Arc::clone(&self.workload));
        let share = Arc::clone(&self.share);
        let policies = worker.proxy.policies.load_full();
        let routes = policies.routes(POLICY).expect("a policy");
        let ip = self.upstream.ip().to_string();
        let site = routes
            .site(self.scheme, &ip, self.upstream.port())
            .expect("a site");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (worker, workload) = (Arc::clone(&worker), Arc::clone(&workload));
                let site = Arc::clone(&site);
                let slot = Arc::new(share.enter());
                slot.narrow();
                tokio::spawn(async move {
                    let ended = Arc::clone(&workload);
                    tokio::select! {
                        () = intercept::plain(worker, workload, site, slot, version, stream) => {}
                        () = ended.ended() => {}
                    }
                });
            }
        });
        address
    }

    /// A client's connection over HTTP/1.1.
    pub(crate) async fn http1(&self) -> Peer {
        let address = self.listen(HttpVersion::Http1).await;
        Peer(TcpStream::connect(address).await.expect("a connection"))
    }

    /// A client's connection over HTTP/2.
    pub(crate) async fn http2<B>(&self) -> SendRequest<B>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let address = self.listen(HttpVersion::Http2).await;
        let stream = TcpStream::connect(address).await.expect("a connection");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("a handshake");
        tokio::spawn(connection);
        sender
    }

    /// Sends bytes in which `HOST` stands for the upstream's name, and reads to the end.
    pub(crate) async fn exchange(&self, request: &str) -> String {
        let mut client = self.http1().await;
        client.send(&request.replace("HOST", &self.host())).await;
        client.rest().await
    }
}

/// A Connector with a token to a server without TLS.
pub(crate) fn connector(upstream: SocketAddr) -> Connector {
    Connector {
        id: ConnectorId(1),
        namespace: "default".into(),
        name: "api".into(),
        class: "generic-bearer".into(),
        address: Address {
            scheme: Scheme::Http,
            host: upstream.ip().to_string(),
            port: upstream.port(),
            path: String::new(),
        },
        extensions: Vec::new(),
        protocol: Protocol::Http,
        credential: Some(Credential::Bearer {
            token: TOKEN.into(),
        }),
        client_authorization: ClientAuthorization::Replace,
        failure_policy: FailurePolicy::Closed,
        on_untrusted_ca: OnUntrustedCa::Fail,
        extra_roots: Arc::default(),
    }
}

fn prepared(connector: Connector) -> Prepared {
    Prepared::new(&Arc::new(connector), &Roots::none()).expect("no roots to refuse")
}

/// One end of a connection, in bytes.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    /// Sends; who has gone away is not there to be told.
    pub(crate) async fn send(&mut self, bytes: &str) {
        let _ = self.0.write_all(bytes.as_bytes()).await;
    }

    /// Reads until the text has come.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        soon(async {
            while !text.ends_with(end) {
                let byte = self.0.read_u8().await;
                text.push(
                    byte.unwrap_or_else(|error| panic!("{error} after {text:?}"))
                        .into(),
                );
            }
        })
        .await;
        text
    }

    /// Reads a head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// Reads to the end of the connection, however it comes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ = soon(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A server of which each connection is the test's to answer.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
    count: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (sender, connections) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            connections,
            count,
            accepting,
        }
    }

    /// Refuses connections from now on.
    pub(crate) async fn refuse(&mut self) {
        self.accepting.abort();
        let ended = soon(&mut self.accepting).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Peer {
        Peer(soon(self.connections.recv()).await.expect("a connection"))
    }

    /// How many there were.
    pub(crate) fn connections(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// A request that has come to the upstream.
pub(crate) struct Exchange {
    pub(crate) rig: Rig,
    pub(crate) upstream: Upstream,
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    /// As the upstream got it, in lower case.
    pub(crate) head: String,
}

impl Exchange {
    /// Sends a head and what follows it; `HOST` stands for the upstream's name.
    pub(crate) async fn begin(request: &str) -> Self {
        Self::tuned(Tuning::default(), request).await
    }

    pub(crate) async fn tuned(tuning: Tuning, request: &str) -> Self {
        let mut upstream = Upstream::start().await;
        let rig = Rig::tuned(upstream.address, tuning);
        let mut client = rig.http1().await;
        client.send(&request.replace("HOST", &rig.host())).await;
        let mut server = upstream.accept().await;
        let head = server.head().await;
        Self {
            rig,
            upstream,
            client,
            server,
            head,
        }
    }
}
