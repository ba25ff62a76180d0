//! The HTTP/2 connections of a lane.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::Barrier, task::JoinSet};

use super::*;

/// A server that allows one stream at a time on each connection; answers requests once so many
/// are there.
struct Server {
    endpoint: Endpoint,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    together: Arc<Barrier>,
}

impl Server {
    async fn start(together: usize) -> Self {
        let super::Server { mut endpoint, .. } = super::Server::start(0, OK).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        endpoint.address.port = listener.local_addr().expect("an address").port();
        let server = Self {
            endpoint,
            connections: Arc::default(),
            ended: Arc::default(),
            together: Arc::new(Barrier::new(together)),
        };
        let connections = Arc::clone(&server.connections);
        let (ended, together) = (Arc::clone(&server.ended), Arc::clone(&server.together));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (ended, together) = (Arc::clone(&ended), Arc::clone(&together));
                tokio::spawn(async move {
                    serve(stream, together).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, together: Arc<Barrier>) {
    let service = service_fn(move |_: Request<Incoming>| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Sends so many requests side by side, and counts the answers.
async fn ask(side: &Arc<Side>, server: &Server, requests: usize) -> usize {
    let mut asked = JoinSet::new();
    for _ in 0..requests {
        let (side, endpoint) = (Arc::clone(side), server.endpoint.clone());
        asked.spawn(async move {
            let request = request(Method::GET, empty());
            let version = HttpVersion::Http2;
            side.upstream
                .send(&side.egress, &endpoint, version, request)
                .await
                .is_ok()
        });
    }
    let answers = asked.join_all().await;
    answers.into_iter().filter(|answered| *answered).count()
}

#[tokio::test]
async fn surplus_connections_are_closed_when_nobody_uses_them() {
    let server = Server::start(5).await;
    let side = Arc::new(Side::new());
    assert_eq!(ask(&side, &server, 5).await, 5);
    assert_eq!(server.connections(), 5);
    later(limits::IDLE_TIME).await;
    later(limits::POOL_SWEEP).await;
    until(&server.ended, 4).await;
    // The last one is used up to its age.
    later(limits::CONNECTION_AGE).await;
    later(limits::POOL_SWEEP).await;
    until(&server.ended, 5).await;
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_is_there_serves_the_next_request() {
    let server = Server::start(1).await;
    let side = Arc::new(Side::new());
    for _ in 0..5 {
        assert_eq!(ask(&side, &server, 1).await, 1);
    }
    assert_eq!(server.connections(), 1);
    later(limits::CONNECTION_AGE).await;
    assert_eq!(ask(&side, &server, 1).await, 1);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_fails_all_who_wait_for_it() {
    let server = Server::start(1).await;
    let mut elsewhere = Server::start(1).await;
    // Bound, and nobody listens: it stays free for as long as that.
    let nobody = tokio::net::TcpSocket::new_v4().expect("a socket");
    nobody
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    elsewhere.endpoint.address.port = nobody.local_addr().expect("an address").port();
    let side = Arc::new(Side::new());
    assert_eq!(ask(&side, &elsewhere, 20).await, 0);
    assert_eq!(ask(&side, &server, 20).await, 20);
}

#[tokio::test]
async fn a_workload_that_is_gone_leaves_no_connection() {
    let server = Server::start(1).await;
    let side = Arc::new(Side::new());
    assert_eq!(ask(&side, &server, 1).await, 1);
    side.upstream.forget(side.egress.id());
    until(&server.ended, 1).await;
}
