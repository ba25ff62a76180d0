//! Upstreams that allow few streams at a time on an HTTP/2 connection.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming, client::conn::http2::SendRequest, server::conn::http2, service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::limits::Tuning;
use tokio::{net::TcpListener, sync::Barrier, task::JoinHandle, time::sleep};

use crate::{
    frames::Server,
    rig::{Rig, Upstream, soon},
};

type Client = SendRequest<Full<Bytes>>;

/// A request that is under way.
type Sent = JoinHandle<Response<Incoming>>;

/// The proxy in front of an upstream of frames.
struct Scene {
    upstream: Upstream,
    rig: Rig,
    client: Client,
}

impl Scene {
    async fn new(tuning: Tuning) -> Self {
        let upstream = Upstream::start().await;
        let rig = Rig::tuned(upstream.address, tuning);
        let client = rig.http2().await;
        Self {
            upstream,
            rig,
            client,
        }
    }

    fn send(&self) -> Sent {
        send(&self.client, &self.rig, Method::POST, "")
    }

    /// The next connection, which allows so many streams.
    async fn accept(&mut self, streams: u32) -> Server {
        let mut server = Server::accept(self.upstream.accept().await).await;
        server.allow(streams).await;
        server
    }
}

fn send(client: &Client, rig: &Rig, method: Method, body: &'static str) -> Sent {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}/", rig.host()))
        .body(Full::from(body))
        .expect("a request");
    let mut client = client.clone();
    tokio::spawn(async move { client.send_request(request).await.expect("an answer") })
}

async fn status(sent: Sent) -> StatusCode {
    soon(sent).await.expect("no panic").status()
}

async fn text(response: Response<Incoming>) -> String {
    let body = soon(response.into_body().collect()).await.expect("a body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

fn one_connection(queue: usize) -> Tuning {
    Tuning {
        upstream_connections: 1,
        upstream_queue: queue,
        ..Tuning::default()
    }
}

/// Requests that all have to be with the upstream before it answers any of them.
const REQUESTS: usize = 50;
const STREAMS: u32 = 4;

/// A server of hyper's, which refuses streams beyond its limit; answers once `together` requests
/// are there. Returns the connections that it had, too.
async fn limited(together: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let (all, count) = (Arc::new(Barrier::new(together)), Arc::default());
    let counted = Arc::<AtomicUsize>::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let all = Arc::clone(&all);
            let service = service_fn(move |_: Request<Incoming>| {
                let all = Arc::clone(&all);
                async move {
                    all.wait().await;
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(STREAMS)
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, count)
}

#[tokio::test]
async fn there_are_as_many_connections_as_the_streams_need() {
    let (address, connections) = limited(REQUESTS).await;
    let rig = Rig::new(address);
    let client = rig.http2().await;
    let sent: Vec<_> = (0..REQUESTS)
        .map(|_| send(&client, &rig, Method::POST, "hello"))
        .collect();
    for sent in sent {
        assert_eq!(status(sent).await, 200);
    }
    assert_eq!(
        connections.load(Ordering::Relaxed),
        REQUESTS.div_ceil(STREAMS as usize)
    );
}

#[tokio::test]
async fn who_finds_no_stream_waits_for_one() {
    let (address, connections) = limited(2).await;
    let tuning = Tuning {
        upstream_connections: 3,
        ..Tuning::default()
    };
    let rig = Rig::tuned(address, tuning);
    let client = rig.http2().await;
    let sent: Vec<_> = (0..REQUESTS)
        .map(|_| send(&client, &rig, Method::POST, "hello"))
        .collect();
    for sent in sent {
        assert_eq!(status(sent).await, 200);
    }
    assert!(connections.load(Ordering::Relaxed) <= 3);
}

#[tokio::test]
async fn who_comes_too_many_is_sent_away() {
    let mut scene = Scene::new(one_connection(1)).await;
    let first = scene.send();
    let mut server = scene.accept(1).await;
    let stream = server.request().await;
    // One of these waits; the other is sent away, whichever comes later.
    let (mut one, mut other) = (scene.send(), scene.send());
    let (busy, waits) = tokio::select! {
        busy = soon(&mut one) => (busy, other),
        busy = soon(&mut other) => (busy, one),
    };
    let busy = busy.expect("no panic");
    assert_eq!(busy.status(), 503);
    assert_eq!(busy.headers()["retry-after"], "1");
    let reason = text(busy).await;
    assert!(
        reason.contains("1 connections have as many streams as it allows"),
        "{reason}"
    );
    server.answer(stream).await;
    assert_eq!(status(first).await, 200);
    let stream = server.request().await;
    server.answer(stream).await;
    assert_eq!(status(waits).await, 200);
    assert_eq!(scene.upstream.connections(), 1);
}

#[tokio::test]
async fn before_the_settings_are_there_one_request_is_sent() {
    let mut scene = Scene::new(Tuning::default()).await;
    let sent = [scene.send(), scene.send(), scene.send()];
    let mut server = Server::accept(scene.upstream.accept().await).await;
    let first = server.request().await;
    server.allow(2).await;
    let second = server.request().await;
    // The third has a connection to itself.
    let mut other = scene.accept(2).await;
    let third = other.request().await;
    for (server, stream) in [(&mut server, first), (&mut other, third)] {
        server.answer(stream).await;
    }
    server.answer(second).await;
    for sent in sent {
        assert_eq!(status(sent).await, 200);
    }
    assert_eq!(scene.upstream.connections(), 2);
}

#[tokio::test]
async fn who_cannot_have_one_connection_more_waits_for_those_that_are_there() {
    let mut scene = Scene::new(Tuning::default()).await;
    let first = scene.send();
    let mut server = scene.accept(1).await;
    let stream = server.request().await;
    server.settle().await;
    scene.upstream.refuse().await;
    let second = scene.send();
    // For as long as it takes to be refused.
    sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished());
    server.answer(stream).await;
    let other = server.request().await;
    server.answer(other).await;
    assert_eq!(status(first).await, 200);
    assert_eq!(status(second).await, 200);
    // With no connection left, the reason is the answer.
    drop(server);
    assert_eq!(status(scene.send()).await, 502);
}

#[tokio::test]
async fn a_limit_that_is_lowered_holds_for_the_next_request() {
    let mut scene = Scene::new(Tuning::default()).await;
    let first = scene.send();
    let mut server = scene.accept(2).await;
    let stream = server.request().await;
    let second = scene.send();
    let other = server.request().await;
    server.allow(1).await;
    server.answer(stream).await;
    assert_eq!(status(first).await, 200);
    let third = scene.send();
    let mut successor = scene.accept(2).await;
    let stream = successor.request().await;
    successor.answer(stream).await;
    assert_eq!(status(third).await, 200);
    server.answer(other).await;
    assert_eq!(status(second).await, 200);
}

#[tokio::test]
async fn a_limit_that_is_raised_lets_those_go_who_wait() {
    let mut scene = Scene::new(one_connection(1)).await;
    let first = scene.send();
    let mut server = scene.accept(1).await;
    let stream = server.request().await;
    let second = scene.send();
    server.settle().await;
    server.allow(2).await;
    let other = server.request().await;
    server.answer(stream).await;
    server.answer(other).await;
    assert_eq!(status(first).await, 200);
    assert_eq!(status(second).await, 200);
    assert_eq!(scene.upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_allows_no_streams_is_given_up() {
    let soon_over = Duration::from_secs(2);
    let tuning = Tuning {
        first_byte: soon_over,
        ..Tuning::default()
    };
    let mut scene = Scene::new(tuning).await;
    let sent = scene.send();
    let mut server = scene.accept(0).await;
    // It was on its way when the limit came, and may have been taken.
    assert_eq!(status(sent).await, 504);
    server.end().await;
    assert_eq!(scene.upstream.connections(), 1);
}

#[tokio::test]
async fn a_request_that_is_refused_again_and_again_is_sent_twice() {
    let mut scene = Scene::new(Tuning::default()).await;
    let first = scene.send();
    let mut server = scene.accept(100).await;
    let stream = server.request().await;
    server.answer(stream).await;
    assert_eq!(status(first).await, 200);
    let refused = send(&scene.client, &scene.rig, Method::GET, "");
    for _ in 0..2 {
        let stream = server.request().await;
        server.refuse(stream).await;
    }
    assert_eq!(status(refused).await, 502);
}

#[tokio::test]
async fn a_request_after_the_last_that_counts_is_sent_again() {
    let mut scene = Scene::new(Tuning::default()).await;
    let sent = send(&scene.client, &scene.rig, Method::GET, "");
    let mut ending = Vec::new();
    for _ in 0..4 {
        let mut server = scene.accept(100).await;
        server.request().await;
        server.go_away(0).await;
        ending.push(server);
    }
    let mut server = scene.accept(100).await;
    let stream = server.request().await;
    server.answer(stream).await;
    assert_eq!(status(sent).await, 200);
}

#[tokio::test]
async fn a_connection_that_is_to_end_gets_no_more_requests() {
    let mut scene = Scene::new(Tuning::default()).await;
    let long = scene.send();
    let mut server = scene.accept(100).await;
    let stream = server.request().await;
    server.go_away(stream).await;
    server.settle().await;
    // A body that is not empty: nobody could send it twice.
    let next = send(&scene.client, &scene.rig, Method::POST, "hello");
    let mut successor = scene.accept(100).await;
    let new = successor.request().await;
    successor.answer(new).await;
    assert_eq!(status(next).await, 200);
    // The one that was there before comes to its end.
    server.answer(stream).await;
    assert_eq!(status(long).await, 200);
    server.end().await;
}
