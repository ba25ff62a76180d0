//! The guard in front of the real hyper, and hyper without it.

mod cases;

use std::{collections::BTreeSet, convert::Infallible};

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
use cases::{
    Hyper::{Refuses, Takes},
    REFUSED, SOUND_ONES,
};

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
        .serve_connection(TokioIo::new(io), service);
    // Until the client has nothing more to send. Time stands still meanwhile.
    let _ = timeout(Duration::from_mins(1), connection).await;
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

const SOUND: &[u8] = b"GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n";

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
    let many = "X: v\r\n".repeat(limits::HEADERS);
    let large = format!("X: {}\r\n", "v".repeat(1000)).repeat(200);
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

/// How far a stream gets, and why it stops: the same however it is cut into pieces.
fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (u64, String) {
    let (mut framing, mut held) = (Framing::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let passed = framing.advance(&held);
            held.drain(..passed.bytes);
            if let Some(stop) = passed.stop {
                return (framing.heads(), format!("{stop:?}"));
            }
            if !framing.waits() {
                break;
            }
            framing.answered(false);
        }
    }
    (framing.heads(), format!("{} bytes are held", held.len()))
}

/// Bytes that mean something to somebody.
const ODD: &[u8] = b"\r\n\t :;0a,\0#\x7f\xff";

#[test]
fn pieces_make_no_difference_whatever_the_stream() {
    // xorshift: the same streams in each run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let requests: Vec<&str> = SOUND_ONES
        .iter()
        .map(|(request, _)| *request)
        .chain(REFUSED.iter().map(|(request, _, _)| *request))
        .collect();
    let mut outcomes = BTreeSet::new();
    for _ in 0..20_000 {
        let last = requests[random(requests.len())];
        let mut stream: Vec<u8> = (0..3)
            .flat_map(|_| SOUND_ONES[random(SOUND_ONES.len())].0.bytes())
            .chain(last.bytes())
            .collect();
        for _ in 0..random(3) {
            let at = random(stream.len());
            match random(3) {
                0 => stream[at] = ODD[random(ODD.len())],
                1 => drop(stream.remove(at)),
                _ => stream.insert(at, ODD[random(ODD.len())]),
            }
        }
        let whole = follow(std::iter::once(stream.as_slice()));
        let size = 1 + random(20);
        let cut = follow(stream.chunks(size));
        let text = String::from_utf8_lossy(&stream);
        assert_eq!(whole, cut, "in pieces of {size}: {text:?}");
        outcomes.insert(whole.1);
    }
    // The streams did reach what they are made for.
    assert!(outcomes.len() > 30, "{outcomes:?}");
}
