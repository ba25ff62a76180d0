//! The guard in front of the real hyper, and hyper without it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex},
    time::timeout,
};

use super::*;

/// What a server saw and what its client got.
#[derive(Debug, Default)]
struct Seen {
    /// Method, target and body of each request.
    requests: Vec<String>,
    /// What the client read.
    answers: String,
}

impl Seen {
    fn statuses(&self) -> Vec<u16> {
        let heads = self.answers.split("HTTP/1.1 ").skip(1);
        heads
            .filter_map(|head| head.get(..3)?.parse().ok())
            .collect()
    }
}

/// Serves what comes on `io`; `requests` tells what is refused.
async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: Option<Requests>,
) -> Vec<String> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let (log, requests) = (Arc::clone(&log), requests.clone());
        async move {
            if let Some(refusal) = requests.as_ref().and_then(Requests::next) {
                let mut response = Response::new(Full::<Bytes>::from(refusal.reason.into_owned()));
                *response.status_mut() = refusal.status;
                return Ok::<_, Infallible>(response);
            }
            let (head, body) = request.into_parts();
            let (status, text) = match body.collect().await {
                Ok(body) => (
                    StatusCode::OK,
                    String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                ),
                Err(_) => (StatusCode::BAD_REQUEST, "broken".into()),
            };
            log.lock()
                .expect("no panic before")
                .push(format!("{} {} {text}", head.method, head.uri));
            let mut response = Response::new(Full::from("seen"));
            *response.status_mut() = status;
            if head.method == Method::CONNECT {
                *response.status_mut() = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
            }
            if let Some(requests) = requests {
                requests.answer(false);
            }
            Ok(response)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(limits::HEAD_BYTES)
        .max_headers(limits::HEADERS)
        .serve_connection(TokioIo::new(io), service);
    // Until the client has nothing more to send. Time stands still meanwhile.
    let _ = timeout(Duration::from_secs(60), connection).await;
    std::mem::take(&mut *seen.lock().expect("no panic before"))
}

/// Sends `pieces` one after the other and reads to the end.
async fn exchange(pieces: &[&[u8]], guarded: bool) -> Seen {
    let (mut client, server) = duplex(1024);
    let server = async move {
        if guarded {
            let (guard, requests) = Guard::new(server, limits::IDLE_BODY);
            serve(guard, Some(requests)).await
        } else {
            serve(server, None).await
        }
    };
    let client = async move {
        let (mut read, mut write) = tokio::io::split(&mut client);
        let send = async move {
            for piece in pieces {
                // The server may have heard enough.
                if write.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let mut answers = Vec::new();
        let ((), read) = tokio::join!(send, read.read_to_end(&mut answers));
        read.expect("an end");
        String::from_utf8_lossy(&answers).into_owned()
    };
    let (requests, answers) = tokio::join!(server, client);
    Seen { requests, answers }
}

/// What hyper does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hyper {
    Refuses,
    /// The service gets a request.
    Takes,
}
use Hyper::{Refuses, Takes};

const SOUND: &[u8] = b"GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Everything that is refused, a part of the reason, and what hyper does about it.
const REFUSED: &[(&str, &str, Hyper)] = &[
    // how long the body is
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "contradict",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "contradict",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "more than one content-length",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "more than one content-length",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 6\r\n\r\nxxxxxx",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 5\r\n\r\nxxxxx",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +5\r\n\r\nxxxxx",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0x5\r\n\r\nxxxxx",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: -1\r\n\r\n",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 18446744073709551616\r\n\r\n",
        "decimal",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent_Length: 5\r\n\r\n",
        "some servers take",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer_Encoding: chunked\r\n\r\n",
        "some servers take",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "nothing but",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "nothing but",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity\r\n\r\n",
        "nothing but",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "nothing but",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "nothing but",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n\r\n",
        "nothing but",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "control character 0x0b",
        Refuses,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "more than one transfer-encoding",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "more than one transfer-encoding",
        Refuses,
    ),
    (
        "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "only defined for HTTP/1.1",
        Refuses,
    ),
    // how lines end, and what is in them
    ("GET / HTTP/1.1\nHost: a.test\n\n", "LF alone", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\n\r\n", "LF alone", Takes),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\rc\r\n\r\n",
        "CR that ends no line",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
        "CR that ends no line",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\0c\r\n\r\n",
        "control character 0x00",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\x7fc\r\n\r\n",
        "control character 0x7f",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n c\r\n\r\n",
        "folded",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n\tc\r\n\r\n",
        "folded",
        Refuses,
    ),
    ("GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", "folded", Refuses),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length : 5\r\n\r\nxxxxx",
        "space before the colon",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\n: b\r\n\r\n",
        "name of a field is empty",
        Refuses,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nno colon\r\n\r\n",
        "name of a field",
        Refuses,
    ),
    (
        "\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "empty line",
        Takes,
    ),
    // the request line
    (
        "GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "GET\t/\tHTTP/1.1\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    ("GET /\r\n\r\n", "request line", Refuses),
    (
        "GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "GET / HTTP/2.0\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "G(T / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "request line",
        Refuses,
    ),
    (
        "GET /#part HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "fragment",
        Takes,
    ),
    (
        "GET /?a#b HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "fragment",
        Takes,
    ),
    (
        "GET /\u{e9} HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "no ASCII",
        Takes,
    ),
    (
        "GET path HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "neither a path",
        Takes,
    ),
    (
        "GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "neither a path",
        Takes,
    ),
    (
        "GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "neither a path",
        Takes,
    ),
    (
        "GET * HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "neither a path",
        Takes,
    ),
    (
        "GET http://user@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "user",
        Takes,
    ),
    (
        "GET http:///x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "names no host",
        Refuses,
    ),
    (
        "CONNECT user@a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "user",
        Takes,
    ),
    (
        "CONNECT /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "names no host",
        Takes,
    ),
    // the host
    ("GET / HTTP/1.1\r\n\r\n", "names no host", Takes),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "more than one host",
        Takes,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n",
        "more than one host",
        Takes,
    ),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "not a host", Takes),
    (
        "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        "not a host",
        Takes,
    ),
    (
        "GET / HTTP/1.1\r\nHost: user@a.test\r\n\r\n",
        "not a host",
        Takes,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
        "not a host",
        Takes,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test:port\r\n\r\n",
        "not a host",
        Takes,
    ),
    (
        "GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "different hosts",
        Takes,
    ),
    // other protocols
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
        "no body",
        Takes,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "no body",
        Takes,
    ),
    (
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx",
        "no body",
        Takes,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: something\r\nContent-Length: 1\r\n\r\nx",
        "100-continue",
        Takes,
    ),
];

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_refused_with_the_reason_and_ends_the_connection() {
    for (head, reason, _) in REFUSED {
        let seen = exchange(&[head.as_bytes(), SOUND], true).await;
        assert!(seen.requests.is_empty(), "{head:?} {seen:?}");
        assert_eq!(seen.statuses().len(), 1, "{head:?} {seen:?}");
        assert!(
            matches!(seen.statuses()[0], 400 | 417) && seen.answers.contains(reason),
            "{head:?} {seen:?}"
        );
        assert!(seen.answers.contains("connection: close"), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn why_hyper_alone_is_not_enough() {
    for (head, _, expected) in REFUSED {
        let seen = exchange(&[head.as_bytes()], false).await;
        let found = if seen.requests.is_empty() {
            Refuses
        } else {
            Takes
        };
        assert_eq!(found, *expected, "{head:?} {seen:?}");
    }
}

/// Sound requests, and what the service sees of them.
const SOUND_ONES: &[(&str, &str)] = &[
    (
        "GET /a?b=%20|{} HTTP/1.1\r\nHost: a.test:443\r\nX: \u{e9}\t\"\r\n\r\n",
        "GET /a?b=%20|{} ",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
        "POST /a hello",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a.test\r\ncontent-length:0\r\n\r\n",
        "POST /a ",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n\
         3;a=\"b\"\r\nhel\r\n00000002\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n",
        "POST /a hello",
    ),
    (
        "PUT /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n0\r\n\r\nGET \r\n0\r\n\r\n",
        "PUT /a 0\r\n\r\nGET ",
    ),
    (
        "OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
        "OPTIONS * ",
    ),
    (
        "GET http://a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET http://a.test/a ",
    ),
    (
        "GET /b HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET /b ",
    ),
    (
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        "CONNECT a.test:443 ",
    ),
];

/// Whatever the network makes of a stream, the requests in it are the same.
#[tokio::test(start_paused = true)]
async fn sound_requests_pass_one_after_the_other_in_pieces_of_any_size() {
    let stream: String = SOUND_ONES.iter().map(|(request, _)| *request).collect();
    let expected: Vec<_> = SOUND_ONES.iter().map(|(_, seen)| *seen).collect();
    for size in [1, 2, 3, 7, 64, 100, 1000, 100_000] {
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        let seen = exchange(&pieces, true).await;
        assert_eq!(seen.requests, expected, "in pieces of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_takes_its_turn_behind_earlier_answers() {
    for (head, reason, _) in REFUSED {
        let stream = [SOUND_ONES[3].0.as_bytes(), SOUND, head.as_bytes(), SOUND].concat();
        for size in [1, stream.len()] {
            let pieces: Vec<_> = stream.chunks(size).collect();
            let seen = exchange(&pieces, true).await;
            assert_eq!(seen.requests.len(), 2, "{head:?} {seen:?}");
            let statuses = seen.statuses();
            assert!(
                statuses.len() == 3 && statuses[..2] == [200, 200] && seen.answers.contains(reason),
                "{head:?} {seen:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_in_broken_chunks_ends_the_connection() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nA: b\n\r\n\r\n",
        "5\r\nhello\r\n0\r\nA : b\r\n\r\n",
        "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        for size in [1, 1000] {
            let stream = [head.as_bytes(), body.as_bytes(), SOUND].concat();
            let pieces: Vec<_> = stream.chunks(size).collect();
            let seen = exchange(&pieces, true).await;
            let bodies: Vec<_> = seen.requests.iter().map(String::as_str).collect();
            assert_eq!(bodies, ["POST / broken"], "{body:?} {seen:?}");
            assert!(!seen.statuses().contains(&200), "{body:?} {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_named() {
    let field = |n: usize| format!("X-{n}: {}\r\n", "v".repeat(1000));
    let many: String = (0..limits::HEADERS)
        .map(|n| format!("X-{n}: v\r\n"))
        .collect();
    let large: String = (0..200).map(field).collect();
    let path = "p".repeat(limits::TARGET_BYTES);
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n"), 431),
        (
            format!("GET / HTTP/1.1\r\nHost: a.test\r\n{large}\r\n"),
            431,
        ),
        (format!("GET /{path} HTTP/1.1\r\nHost: a.test\r\n\r\n"), 414),
    ] {
        let seen = exchange(&[head.as_bytes(), SOUND], true).await;
        assert!(seen.requests.is_empty());
        assert_eq!(seen.statuses(), [status]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_granted_request_for_another_protocol_anything_passes() {
    let (mut client, server) = duplex(1024);
    let (mut guard, requests) = Guard::new(server, limits::IDLE_BODY);
    let upgrade = SOUND_ONES[7].0.as_bytes();
    client
        .write_all(&[upgrade, b"\0raw"].concat())
        .await
        .expect("room");
    let mut head = vec![0; upgrade.len()];
    guard.read_exact(&mut head).await.expect("a head");
    let mut early = [0; 4];
    let before = timeout(Duration::from_secs(1), guard.read(&mut early)).await;
    assert!(before.is_err(), "nothing passes before the answer");
    assert!(requests.next().is_none());
    requests.answer(true);
    guard.read_exact(&mut early).await.expect("what was held");
    assert_eq!(&early, b"\0raw");
    client.write_all(b"\n\n").await.expect("room");
    guard
        .read_exact(&mut early[..2])
        .await
        .expect("what follows");
}
