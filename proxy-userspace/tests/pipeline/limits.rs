//! What is given up, and when. The times are short here, and nothing is said about how long
//! anything takes.

use std::time::Duration;

use postern::{limits::Tuning, telemetry::Counters};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Exchange, Rig, soon};

/// Short enough for a test, and what must not happen before it does not take time.
const SHORT: Duration = Duration::from_millis(300);

const NO_BODY: &str = "Content-Length: 0\r\n\r\n";

fn request(rig: &Rig, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: {}\r\n{rest}", rig.host())
}

/// Whatever moves within bodies has to do so soon.
fn impatient() -> Tuning {
    Tuning {
        idle_body: SHORT,
        ..Tuning::default()
    }
}

/// A request that goes on like this after `Host`.
async fn begin(tuning: Tuning, rest: &str) -> Exchange {
    Exchange::tuned(tuning, &format!("POST / HTTP/1.1\r\nHost: HOST\r\n{rest}")).await
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_and_its_upload_ends() {
    let mut exchange = begin(impatient(), "Content-Length: 9\r\n\r\nhalf").await;
    let Exchange { client, server, .. } = &mut exchange;
    server.until("half").await;
    assert_eq!(server.rest().await, "");
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_of_an_upload_is_given_up() {
    let more_than_all_buffers = 1 << 30;
    let mut exchange = begin(
        impatient(),
        &format!("Content-Length: {more_than_all_buffers}\r\n\r\n"),
    )
    .await;
    let Exchange {
        rig,
        client,
        server,
        ..
    } = &mut exchange;
    let (mut reads, mut writes) = client.0.split();
    let upload = async {
        let chunk = vec![b'x'; 1 << 16];
        // Ends with the connection.
        while writes.write_all(&chunk).await.is_ok() {}
    };
    let answer = async {
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = reads.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let ((), answer) = soon(async { tokio::join!(upload, answer) }).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(
        answer.contains("took nothing more of the request's body"),
        "{answer}"
    );
    assert_eq!(Counters::read(&rig.counters().stalled), 1);
    // Its connection ends, although there was more to be written.
    server.rest().await;
}

#[tokio::test]
async fn an_upstream_that_stops_in_its_answer_is_given_up() {
    let mut exchange = begin(impatient(), NO_BODY).await;
    let Exchange { client, server, .. } = &mut exchange;
    server
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        .await;
    client.until("half\r\n").await;
    assert_eq!(client.rest().await, "", "no end that looks like one");
    assert_eq!(server.rest().await, "");
}

#[tokio::test]
async fn streams_that_say_so_may_be_silent() {
    let mut exchange = begin(impatient(), NO_BODY).await;
    let Exchange { client, server, .. } = &mut exchange;
    server
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await;
    client.until("a\r\n").await;
    tokio::time::sleep(SHORT * 3).await;
    server.send("1\r\nb\r\n0\r\n\r\n").await;
    assert_eq!(client.until("0\r\n\r\n").await, "1\r\nb\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_a_504() {
    let mut exchange = begin(
        Tuning {
            first_byte: SHORT,
            ..Tuning::default()
        },
        NO_BODY,
    )
    .await;
    let Exchange { client, server, .. } = &mut exchange;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    assert_eq!(server.rest().await, "");
}

#[tokio::test]
async fn a_client_that_never_reads_lets_go_of_the_upstream() {
    let mut exchange = begin(impatient(), NO_BODY).await;
    let Exchange { server, .. } = &mut exchange;
    let more_than_all_buffers = 1 << 30;
    server
        .send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {more_than_all_buffers}\r\n\r\n"
        ))
        .await;
    let chunk = "x".repeat(1 << 16);
    // Ends with an error, or with the memory of the machine.
    let sent = soon(async {
        let mut sent = 0;
        while sent < more_than_all_buffers {
            if server.0.write_all(chunk.as_bytes()).await.is_err() {
                break;
            }
            sent += chunk.len();
        }
        sent
    })
    .await;
    assert!(sent < more_than_all_buffers);
}

#[tokio::test]
async fn who_comes_too_many_waits_in_line_or_is_sent_away() {
    let mut exchange = begin(
        Tuning {
            upstream_connections: 1,
            upstream_queue: 1,
            ..Tuning::default()
        },
        NO_BODY,
    )
    .await;
    let Exchange {
        rig,
        upstream,
        client: first,
        server,
        ..
    } = &mut exchange;
    // One of these waits; the other is sent away, whichever comes later.
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut client = rig.http1().await;
        client
            .send(&request(
                rig,
                "Content-Length: 0\r\nConnection: close\r\n\r\n",
            ))
            .await;
        others.push(tokio::spawn(async move { client.rest().await }));
    }
    let mut first_to_end = others.remove(0);
    let mut other = others.remove(0);
    let (busy, waits) = tokio::select! {
        busy = &mut first_to_end => (busy, other),
        busy = &mut other => (busy, first_to_end),
    };
    let busy = busy.expect("no panic");
    assert!(busy.starts_with("HTTP/1.1 503"), "{busy}");
    assert!(
        busy.to_ascii_lowercase().contains("retry-after: 1"),
        "{busy}"
    );
    server
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(first.head().await.starts_with("http/1.1 200"));
    // The same connection serves who waited.
    server.head().await;
    server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    let waited = waits.await.expect("no panic");
    assert!(waited.starts_with("HTTP/1.1 204"), "{waited}");
    assert_eq!(upstream.connections(), 1);
}
