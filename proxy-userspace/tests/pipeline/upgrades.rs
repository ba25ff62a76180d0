//! Requests for another protocol.

use std::time::Duration;

use postern::{limits::Tuning, telemetry::Counters};
use tokio::time::sleep;

use crate::rig::{Exchange, Rig, TOKEN, Upstream};

const WISH: &str = "GET /chat HTTP/1.1\r\nHost: HOST\r\nConnection: keep-alive, Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn after_the_upstreams_101_bytes_are_copied_in_both_directions() {
    let Exchange {
        rig,
        mut client,
        mut server,
        head,
        ..
    } = Exchange::begin(WISH).await;
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("authorization: bearer {TOKEN}")),
        "{head}"
    );
    // The first frame may come with the head.
    server.send(&format!("{ACCEPTED}\u{1}first")).await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 101") && head.contains("sec-websocket-accept"),
        "{head}"
    );
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    assert_eq!(client.until("first").await, "\u{1}first");
    // Nothing of this is HTTP.
    for (from, text) in [
        (true, "\0\n\nping"),
        (false, "\r\n\r\npong"),
        (true, "GET / x\n\n."),
    ] {
        let (sender, receiver) = if from {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        sender.send(text).await;
        assert_eq!(receiver.until(text).await, text);
    }
    drop(client);
    assert_eq!(server.rest().await, "");
    assert_eq!(Counters::read(&rig.counters().injected), 1);
}

#[tokio::test]
async fn what_is_sent_ahead_of_the_answer_waits_for_it() {
    let Exchange {
        mut client,
        mut server,
        ..
    } = Exchange::begin(&format!("{WISH}early")).await;
    server.send(ACCEPTED).await;
    client.head().await;
    assert_eq!(server.until("early").await, "early");
}

#[tokio::test]
async fn without_a_101_the_connection_goes_on_with_http() {
    // The bytes after it are a request, and judged as one.
    let smuggled = format!("{WISH}GET /#smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n");
    let Exchange {
        upstream,
        mut client,
        mut server,
        ..
    } = Exchange::begin(&smuggled).await;
    server
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        .await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    client.until("no").await;
    let second = client.rest().await;
    assert!(
        second.starts_with("HTTP/1.1 400") && second.contains("fragment"),
        "{second}"
    );
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn http2_in_clear_text_is_not_asked_for() {
    let mut upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let mut client = rig.http1().await;
    client
        .send(
            &WISH
                .replace("websocket", "h2c")
                .replace("HOST", &rig.host()),
        )
        .await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(!head.contains("upgrade"), "{head}");
    server
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_is_refused() {
    for (request, answer) in [
        ("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", ACCEPTED),
        (
            "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
            ACCEPTED,
        ),
    ] {
        let Exchange {
            mut client,
            mut server,
            ..
        } = Exchange::begin(request).await;
        server.send(answer).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 502"), "{head}");
        assert_eq!(server.rest().await, "");
    }
}

#[tokio::test]
async fn a_wish_with_a_body_is_refused() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let answer = rig
        .exchange(
            "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Content-Length: 4\r\n\r\nbody",
        )
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("no body"),
        "{answer}"
    );
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_changed_connection_ends_with_its_workload() {
    let Exchange {
        rig,
        mut client,
        mut server,
        ..
    } = Exchange::begin(WISH).await;
    server.send(ACCEPTED).await;
    client.head().await;
    // It is not asked to end, like one that is passed through.
    rig.workload.wind_down();
    client.send("still").await;
    assert_eq!(server.until("still").await, "still");
    rig.workload.end();
    assert_eq!(client.rest().await, "");
    assert_eq!(server.rest().await, "");
}

const PLAIN: &str = "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_tunnel_is_one_of_the_upstreams_connections_until_its_end() {
    let tuning = Tuning {
        upstream_connections: 1,
        upstream_queue: 0,
        ..Tuning::default()
    };
    let Exchange {
        rig,
        mut upstream,
        mut client,
        mut server,
        ..
    } = Exchange::tuned(tuning, WISH).await;
    server.send(ACCEPTED).await;
    client.head().await;
    let busy = rig.exchange(PLAIN).await;
    assert!(busy.starts_with("HTTP/1.1 503"), "{busy}");
    // It works all the while.
    client.send("still").await;
    assert_eq!(server.until("still").await, "still");
    drop((client, server));
    let next = tokio::spawn(async move {
        let mut server = upstream.accept().await;
        server.head().await;
        server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        upstream.connections()
    });
    for _ in 0..10_000 {
        let answer = rig.exchange(PLAIN).await;
        if answer.starts_with("HTTP/1.1 204") {
            assert_eq!(next.await.expect("no panic"), 2);
            return;
        }
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        sleep(Duration::from_millis(1)).await;
    }
    panic!("its place was never free again");
}

#[tokio::test]
async fn without_room_for_a_tunnel_the_upstream_is_not_asked() {
    let mut upstream = Upstream::start().await;
    let tuning = Tuning {
        connections: Some(1),
        ..Tuning::default()
    };
    let rig = Rig::tuned(upstream.address, tuning);
    let mut client = rig.http1().await;
    client.send(&WISH.replace("HOST", &rig.host())).await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after: 1"),
        "{head}"
    );
    assert!(
        client
            .until("try again later\n")
            .await
            .contains("as many connections as it may have now")
    );
    assert_eq!(upstream.connections(), 0);
    // The connection is as good as before, for what needs no more than it.
    client.send(&PLAIN.replace("HOST", &rig.host())).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn a_tunnel_has_two_places_until_its_end() {
    let mut upstream = Upstream::start().await;
    let tuning = Tuning {
        connections: Some(4),
        ..Tuning::default()
    };
    let rig = Rig::tuned(upstream.address, tuning);
    // While nobody has more than one place there is room for both of these.
    let (mut client, mut other) = (rig.http1().await, rig.http1().await);
    client.send(&WISH.replace("HOST", &rig.host())).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(ACCEPTED).await;
    client.head().await;
    other.send(&WISH.replace("HOST", &rig.host())).await;
    let head = other.head().await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    other.until("try again later\n").await;
    drop((client, server));
    for _ in 0..10_000 {
        other.send(&WISH.replace("HOST", &rig.host())).await;
        tokio::select! {
            biased;
            head = other.head() => {
                assert!(head.starts_with("http/1.1 503"), "{head}");
                other.until("try again later\n").await;
            }
            mut server = upstream.accept() => {
                server.head().await;
                server.send(ACCEPTED).await;
                assert!(other.head().await.starts_with("http/1.1 101"));
                return;
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("its places were never free again");
}
