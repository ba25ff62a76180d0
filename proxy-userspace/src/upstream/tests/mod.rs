//! The pool against servers that count connections and show what they were sent.

mod http2;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{advance, pause, resume, sleep},
};

use super::*;
use crate::{
    limits,
    state::Scheme,
    workload::{Egress, Enrolment, PolicyId, Workload},
};

/// A server whose connections are answered by `serve`, given their number.
struct Server {
    endpoint: Endpoint,
    connections: Arc<AtomicUsize>,
    /// Connections that have ended.
    ended: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Every connection answers `answers` requests with `answer`, then closes.
    async fn start(answers: usize, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicUsize::new(0));
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&heads));
        let ends = Arc::clone(&ended);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (seen, ends) = (Arc::clone(&seen), Arc::clone(&ends));
                tokio::spawn(async move {
                    serve(stream, answers, answer, seen).await;
                    ends.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        let address = Address {
            scheme: Scheme::Http,
            host: "127.0.0.1".into(),
            port,
            path: String::new(),
        };
        Self {
            endpoint: Endpoint {
                connector: Some(ConnectorId(1)),
                address,
                tls: None,
            },
            connections,
            ended,
            heads,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Waits until so many connections have ended.
async fn until(ended: &AtomicUsize, connections: usize) {
    for _ in 0..10_000 {
        if ended.load(Ordering::Relaxed) == connections {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("{ended:?} connections have ended");
}

async fn serve(
    mut stream: TcpStream,
    answers: usize,
    answer: &'static str,
    heads: Arc<Mutex<Vec<String>>>,
) {
    for _ in 0..answers {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        heads.lock().expect("no panic before").push(head);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn request(method: Method, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = "https://registry.example.com/v2/?n=1"
        .parse()
        .expect("a URI");
    request
}

/// Postern's side of it: what is kept for one workload.
struct Side {
    upstream: Upstream,
    egress: Egress,
}

impl Side {
    fn new() -> Self {
        Self::with(Resolver::default())
    }

    fn with(resolver: Resolver) -> Self {
        Self {
            upstream: Upstream::new(Arc::new(resolver), Tuning::default()),
            egress: Egress::own(),
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let version = HttpVersion::Http1;
        self.upstream
            .send(&self.egress, endpoint, version, request)
            .await
    }

    async fn get(&self, server: &Server) -> Result<(), UpstreamError> {
        get(&self.upstream, &self.egress, server).await
    }
}

/// Asks and reads to the end, so that the connection can be given back.
async fn get(upstream: &Upstream, egress: &Egress, server: &Server) -> Result<(), UpstreamError> {
    let request = request(Method::GET, empty());
    let response = upstream
        .send(egress, &server.endpoint, HttpVersion::Http1, request)
        .await?;
    response.into_body().collect().await.expect("a body");
    // The pool takes it back once hyper has seen the end.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn an_origin_server_gets_the_origin_form_and_a_host() {
    let server = Server::start(1, OK).await;
    let side = Side::new();
    side.get(&server).await.expect("an answer");
    let head = server.heads.lock().expect("no panic before")[0].to_ascii_lowercase();
    assert!(head.starts_with("get /v2/?n=1 http/1.1\r\n"), "{head}");
    let host = format!("\r\nhost: {}\r\n", server.endpoint.address.authority());
    assert!(head.contains(&host), "{head}");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start(10, OK).await;
    let side = Side::new();
    for _ in 0..5 {
        side.get(&server).await.expect("an answer");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn connections_of_one_connector_are_not_used_for_another() {
    let server = Server::start(10, OK).await;
    let side = Side::new();
    side.get(&server).await.expect("an answer");
    let mut other = server.endpoint.clone();
    other.connector = Some(ConnectorId(2));
    side.send(&other, request(Method::GET, empty()))
        .await
        .expect("an answer");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn connections_of_one_workload_are_not_used_for_another() {
    let server = Server::start(10, OK).await;
    let upstream = Upstream::new(Arc::default(), Tuning::default());
    for _ in 0..2 {
        get(&upstream, &Egress::own(), &server)
            .await
            .expect("an answer");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn nothing_is_kept_for_a_workload_that_is_gone() {
    let server = Server::start(10, OK).await;
    let upstream = Upstream::new(Arc::default(), Tuning::default());
    let workload = Workload {
        cgroup_id: 1,
        name: "default/pod".into(),
        policy: PolicyId(1),
    };
    let workload = Enrolment::new(workload, Egress::own());
    let ask = async || {
        get(&upstream, &workload.egress, &server)
            .await
            .expect("an answer");
    };
    ask().await;
    upstream.forget(workload.egress.id());
    ask().await;
    ask().await;
    assert_eq!(server.connections(), 2, "what was kept is forgotten");
    workload.end();
    upstream.forget(workload.egress.id());
    ask().await;
    ask().await;
    assert_eq!(server.connections(), 4, "nothing is kept any more");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let server = Server::start(1, OK).await;
    let side = Side::new();
    for n in 1..=4 {
        side.get(&server)
            .await
            .unwrap_or_else(|error| panic!("request {n}: {error}"));
    }
    assert_eq!(server.connections(), 4);
}

/// Lets time pass, in which nothing else happens.
async fn later(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let server = Server::start(10, OK).await;
    let side = Side::new();
    side.get(&server).await.expect("an answer");
    later(limits::IDLE_TIME).await;
    // Whoever looks for such connections does so from time to time.
    later(limits::POOL_SWEEP).await;
    until(&server.ended, 1).await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_is_always_in_use_is_replaced_at_its_age() {
    let server = Server::start(usize::MAX, OK).await;
    let side = Side::new();
    let pause = limits::IDLE_TIME / 2;
    let mut passed = Duration::ZERO;
    while passed < limits::CONNECTION_AGE {
        side.get(&server).await.expect("an answer");
        assert_eq!(server.connections(), 1, "after {passed:?}");
        later(pause).await;
        passed += pause;
    }
    side.get(&server).await.expect("an answer");
    assert_eq!(server.connections(), 2);
    until(&server.ended, 1).await;
}

#[tokio::test]
async fn an_early_answer_spoils_its_connection() {
    const REFUSAL: &str = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    let server = Server::start(10, REFUSAL).await;
    let side = Side::new();
    // A body that never ends.
    let (_sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
    let body = Endless(receiver).boxed_unsync();
    let response = side
        .send(&server.endpoint, request(Method::PUT, body))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 413);
    assert!(response.extensions().get::<RequestUnread>().is_some());
    response.into_body().collect().await.expect("a body");
    side.get(&server).await.expect("an answer");
    assert_eq!(server.connections(), 2);
}

/// A body of which nothing ever comes.
struct Endless(tokio::sync::mpsc::Receiver<()>);

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, BodyError>>> {
        self.0.poll_recv(context).map(|_| None)
    }
}

/// Serves one request on `listener`; then nobody is there any more.
async fn serve_once(listener: TcpListener, heads: Arc<Mutex<Vec<String>>>) {
    let (stream, _) = listener.accept().await.expect("a connection");
    drop(listener);
    serve(stream, 1, OK, heads).await;
}

#[tokio::test]
async fn a_name_is_followed_to_its_new_address_when_the_old_one_is_gone() {
    let old = TcpListener::bind("127.0.0.2:0").await.expect("a listener");
    let port = old.local_addr().expect("an address").port();
    let new = TcpListener::bind(("127.0.0.3", port)).await;
    let new = new.expect("the same port of another address");
    let files = testkit::TempDir::new("moved").expect("a folder");
    let write = |text: &str| files.write("hosts", text).expect("a file");
    let hosts = write("127.0.0.2 api.test\n");
    let resolver = Resolver::with_files(files.join("resolv.conf"), hosts, port);
    let side = Side::with(resolver);
    let mut server = Server::start(0, OK).await;
    server.endpoint.address.host = "api.test".into();
    server.endpoint.address.port = port;
    let ask = || side.get(&server);

    let heads = Arc::<Mutex<Vec<String>>>::default();
    let (at_old, ()) = tokio::join!(ask(), serve_once(old, Arc::clone(&heads)));
    at_old.expect("an answer");
    // The kept connection is closed, and the name still leads there.
    let error = ask().await.expect_err("nobody is there");
    assert_eq!(error.kind, ErrorKind::Connect, "{error}");

    write("127.0.0.3 api.test\n");
    let served = tokio::spawn(serve_once(new, Arc::clone(&heads)));
    let mut tries = 0;
    while let Err(error) = ask().await {
        assert_eq!(error.kind, ErrorKind::Connect, "{error}");
        tries += 1;
        assert!(tries < 1000, "it never found the new address");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served.await.expect("no panic");
    assert_eq!(heads.lock().expect("no panic before").len(), 2);
}
