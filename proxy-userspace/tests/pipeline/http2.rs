//! HTTP/2 from end to end: what h2 refuses, what the gate does, and how streams end.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::{limits::Tuning, telemetry::Counters};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    frames::{CANCEL, Client, DATA, END_STREAM, GOAWAY, HEADERS, PROTOCOL_ERROR, RST_STREAM, get},
    rig::{Rig, TOKEN, soon},
};

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// An upstream that speaks HTTP/2, and counts the requests that came whole.
struct Server {
    address: SocketAddr,
    whole: Arc<AtomicUsize>,
    /// Has answers to `/dies` break off; tells that one to `/endless` was cancelled.
    death: Arc<Notify>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let whole = Arc::new(AtomicUsize::new(0));
        let death = Arc::new(Notify::new());
        let (counted, awaited) = (Arc::clone(&whole), Arc::clone(&death));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&counted), Arc::clone(&awaited)));
            }
        });
        Self {
            address,
            whole,
            death,
        }
    }

    fn whole(&self) -> usize {
        self.whole.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, whole: Arc<AtomicUsize>, death: Arc<Notify>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (whole, death) = (Arc::clone(&whole), Arc::clone(&death));
        async move { Ok::<_, Infallible>(answer(request, &whole, death).await) }
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// `/stuck` reads nothing, `/endless` never ends, `/dies` breaks its answer off, `/trailers` sends back what it got; all others say "ok".
async fn answer(request: Request<Incoming>, whole: &AtomicUsize, death: Arc<Notify>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/dies" {
        let (sender, frames) = mpsc::channel(2);
        tokio::spawn(async move {
            let half = BodyFrame::data(Bytes::from("half"));
            let _ = sender.send(Ok(half)).await;
            death.notified().await;
            let _ = sender.send(Err(std::io::ErrorKind::Other.into())).await;
        });
        return Response::new(StreamBody::new(ReceiverStream::new(frames)).boxed_unsync());
    }
    if path == "/stuck" {
        // Holds the body, and takes nothing of it.
        let _request = request;
        return std::future::pending().await;
    }
    if path == "/endless" {
        let (sender, frames) = mpsc::channel(2);
        tokio::spawn(async move {
            let more = || BodyFrame::data(Bytes::from_static(&[0; 4096]));
            while sender.send(Ok(more())).await.is_ok() {}
            death.notify_one();
        });
        return Response::new(StreamBody::new(ReceiverStream::new(frames)).boxed_unsync());
    }
    let Ok(body) = request.into_body().collect().await else {
        return Response::new(full("broken"));
    };
    whole.fetch_add(1, Ordering::Relaxed);
    if path == "/trailers" {
        let trailers = body.trailers().cloned().unwrap_or_default();
        let frames = [
            Ok(BodyFrame::data(body.to_bytes())),
            Ok(BodyFrame::trailers(trailers)),
        ];
        return Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync());
    }
    Response::new(full("ok"))
}

fn full(text: &'static str) -> UnsyncBoxBody<Bytes, std::io::Error> {
    Full::from(text)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Whether an answer's head holds a status, as HPACK's static table has it.
fn is_ok(head: &[u8]) -> bool {
    head.first() == Some(&0x88)
}

#[tokio::test]
async fn a_request_is_answered() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let mut client = Client::connect(&rig).await;
    client.request(1, END_STREAM, &get(&rig.host())).await;
    let head = client
        .wait_for(&[HEADERS, RST_STREAM])
        .await
        .expect("a frame");
    assert!(head.kind == HEADERS && is_ok(&head.payload), "{head:?}");
    let data = client.wait_for(&[DATA]).await.expect("a body");
    assert_eq!(data.payload, b"ok");
    assert_eq!(Counters::read(&rig.counters().injected), 1);
}

/// What h2 takes for malformed (RFC 9113, section 8.1.1): the stream ends, or the connection.
#[tokio::test]
async fn malformed_requests_end_their_stream_and_reach_nobody() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let with = |name: &'static str, value: &'static str| {
        let mut fields = get(&host);
        fields.push((name, value));
        fields
    };
    let without = |gone: &str| {
        let mut fields = get(&host);
        fields.retain(|(name, _)| *name != gone);
        fields
    };
    let mut late = get(&host);
    late.rotate_left(1);
    late.insert(0, ("x-first", "1"));
    let cases = [
        with("connection", "close"),
        with("connection", "x-hop"),
        with("keep-alive", "timeout=5"),
        with("proxy-connection", "keep-alive"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "websocket"),
        with("te", "gzip"),
        with("X-Upper", "1"),
        with(":path", "/twice"),
        with(":unknown", "1"),
        with("x-nul", "a\0b"),
        with("x-line", "a\r\nb: c"),
        without(":method"),
        without(":path"),
        late,
    ];
    for fields in &cases {
        let mut client = Client::connect(&rig).await;
        client.request(1, END_STREAM, fields).await;
        let frame = client
            .wait_for(&[HEADERS, RST_STREAM, GOAWAY])
            .await
            .unwrap_or_else(|| panic!("the connection ended at {fields:?}"));
        assert!(
            matches!(frame.kind, RST_STREAM | GOAWAY),
            "{fields:?} {frame:?}"
        );
        assert_eq!(frame.code(), PROTOCOL_ERROR, "{fields:?}");
    }
    assert_eq!(server.whole(), 0);
}

#[tokio::test]
async fn what_names_another_host_or_method_is_refused() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let mut client = Client::connect(&rig).await;
    let mut two = get(&host);
    two.push(("host", "other.test"));
    let mut user = get(&host);
    let authority = format!("user@{host}");
    user[3].1 = &authority;
    let mut trace = get(&host);
    trace[0].1 = "TRACE";
    let mut lengths = get(&host);
    lengths.extend([("content-length", "0"); 2]);
    let cases = [
        (lengths, "more than one Content-Length"),
        (get("other.test"), "another host"),
        (two, "different hosts"),
        (user, "host"),
        (trace, "TRACE"),
    ];
    for (n, (fields, reason)) in (0..).zip(&cases) {
        let stream = 1 + 2 * n;
        client.request(stream, END_STREAM, fields).await;
        let frame = client
            .wait_for(&[DATA, RST_STREAM, GOAWAY])
            .await
            .expect("a frame");
        let text = String::from_utf8_lossy(&frame.payload);
        assert!(
            frame.kind == RST_STREAM || text.contains(reason),
            "{fields:?} {frame:?} {text}"
        );
    }
    assert_eq!(server.whole(), 0);
}

#[tokio::test]
async fn an_extended_connect_is_refused() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let mut fields = get(&host);
    fields[0].1 = "CONNECT";
    fields.insert(1, (":protocol", "websocket"));
    let mut client = Client::connect(&rig).await;
    client.request(1, 0, &fields).await;
    let frame = client
        .wait_for(&[HEADERS, RST_STREAM, GOAWAY])
        .await
        .expect("a frame");
    assert_eq!((frame.kind, frame.stream), (RST_STREAM, 1), "{frame:?}");
    // The connection is as good as before.
    client.request(3, END_STREAM, &get(&host)).await;
    let head = client.wait_for(&[HEADERS]).await.expect("a head");
    assert!(head.stream == 3 && is_ok(&head.payload), "{head:?}");
}

#[tokio::test]
async fn a_length_that_is_not_that_of_the_data_never_makes_a_whole_request() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let mut client = Client::connect(&rig).await;
    for (n, data) in (0..).zip([&b"123456"[..], b"1234"]) {
        let stream = 1 + 2 * n;
        let mut fields = get(&host);
        fields[0].1 = "POST";
        fields.push(("content-length", "5"));
        client.request(stream, 0, &fields).await;
        client.send(DATA, END_STREAM, stream, data).await;
        let frame = client
            .wait_for(&[RST_STREAM, GOAWAY])
            .await
            .expect("a frame");
        assert_eq!(frame.code(), PROTOCOL_ERROR, "{frame:?}");
        if frame.kind == GOAWAY {
            break;
        }
    }
    assert_eq!(server.whole(), 0);
}

#[tokio::test]
async fn an_upstream_that_dies_in_its_answer_resets_the_stream() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let mut fields = get(&host);
    fields[2].1 = "/dies";
    let mut client = Client::connect(&rig).await;
    client.request(1, END_STREAM, &fields).await;
    let half = client.wait_for(&[DATA, RST_STREAM]).await.expect("a frame");
    assert_eq!((half.kind, half.flags & END_STREAM), (DATA, 0));
    server.death.notify_one();
    let end = client.wait_for(&[DATA, RST_STREAM]).await.expect("an end");
    assert_eq!((end.kind, end.stream), (RST_STREAM, 1), "{end:?}");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_cancelled_upstream_and_others_go_on() {
    let server = Server::start().await;
    let tuning = Tuning {
        idle_body: Duration::from_millis(300),
        ..Tuning::default()
    };
    let rig = Rig::tuned(server.address, tuning);
    let host = rig.host();
    let mut fields = get(&host);
    fields[2].1 = "/endless";
    let mut client = Client::connect(&rig).await;
    client.request(1, END_STREAM, &fields).await;
    // No more than its window comes, which is never opened again.
    soon(server.death.notified()).await;
    client.request(3, END_STREAM, &get(&host)).await;
    loop {
        let head = client.wait_for(&[HEADERS]).await.expect("a head");
        if head.stream == 3 {
            assert!(is_ok(&head.payload), "{head:?}");
            return;
        }
    }
}

#[tokio::test]
async fn a_stream_that_the_client_cancels_ends_at_the_upstream() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let host = rig.host();
    let mut client = Client::connect(&rig).await;
    let mut fields = get(&host);
    fields[0].1 = "POST";
    client.request(1, 0, &fields).await;
    client.send(DATA, 0, 1, b"part").await;
    client.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    client.request(3, END_STREAM, &get(&host)).await;
    let head = client.wait_for(&[HEADERS]).await.expect("a head");
    assert_eq!(head.stream, 3);
    assert_eq!(server.whole(), 1);
}

#[tokio::test]
async fn trailers_go_both_ways_but_for_the_credential() {
    let server = Server::start().await;
    let rig = Rig::new(server.address);
    let mut sender = rig.http2().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let mut with_echo = trailers.clone();
    with_echo.insert("x-echo", HeaderValue::from_static(TOKEN));
    let frames = [
        Ok::<_, Infallible>(BodyFrame::data(Bytes::from("hello"))),
        Ok(BodyFrame::trailers(with_echo)),
    ];
    let request = Request::post(format!("http://{}/trailers", rig.host()))
        .header("te", "trailers")
        .body(StreamBody::new(tokio_stream::iter(frames)))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers(), Some(&trailers));
    assert_eq!(body.to_bytes(), "hello");
    assert_eq!(Counters::read(&rig.counters().scrubbed), 1);
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_of_an_upload_is_given_up() {
    let server = Server::start().await;
    let tuning = Tuning {
        idle_body: Duration::from_millis(300),
        ..Tuning::default()
    };
    let rig = Rig::tuned(server.address, tuning);
    let mut sender = rig.http2().await;
    // More than all windows on the way.
    let body = Full::new(Bytes::from(vec![0; 16 << 20]));
    let request = |path: &str| Request::post(format!("http://{}{path}", rig.host()));
    let stuck = request("/stuck").body(body.clone()).expect("a request");
    let answer = soon(sender.send_request(stuck)).await.expect("an answer");
    assert_eq!(answer.status(), 504);
    let text = soon(answer.into_body().collect()).await.expect("a body");
    let text = String::from_utf8(text.to_bytes().to_vec()).expect("text");
    assert!(
        text.contains("took nothing more of the request's body"),
        "{text}"
    );
    assert_eq!(Counters::read(&rig.counters().stalled), 1);
    // The client's connection lives, and its next upload has nothing to wait for.
    let next = request("/").body(body).expect("a request");
    let answer = soon(sender.send_request(next)).await.expect("an answer");
    assert_eq!(answer.status(), 200);
}
