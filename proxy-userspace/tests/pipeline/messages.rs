//! Messages of HTTP/1.1 from end to end.

use postern::telemetry::Counters;

use crate::rig::{Exchange, Rig, TOKEN, Upstream};

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    for (request, reason) in [
        (
            "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "contradict",
        ),
        ("GET /#x HTTP/1.1\r\nHost: HOST\r\n\r\n", "fragment"),
        ("GET / HTTP/1.1\nHost: HOST\n\n", "LF alone"),
        (
            "GET http://other.test/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
            "different hosts",
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
            "echo",
        ),
        (
            "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
            "for proxies",
        ),
        (
            "GET / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
            "another host",
        ),
    ] {
        let answer = rig
            .exchange(&format!(
                "{request}GET /next HTTP/1.1\r\nHost: HOST\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request:?} {answer}");
        assert!(answer.contains(reason), "{request:?} {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{request:?} {answer}"
        );
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(Counters::read(&rig.counters().refused), 7);
}

#[tokio::test]
async fn chunks_and_trailers_go_both_ways() {
    let Exchange {
        mut client,
        mut server,
        head,
        ..
    } = Exchange::begin(
        "POST /up HTTP/1.1\r\nHost: HOST\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(
        head.contains("te: trailers") && head.contains("trailer: x-sum"),
        "{head}"
    );
    assert!(
        head.contains(&format!("authorization: bearer {TOKEN}")),
        "{head}"
    );
    let body = server.until("\r\n\r\n").await.to_ascii_lowercase();
    assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
    server
        .send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n\
             3\r\nbye\r\n0\r\nX-End: 2\r\n\r\n",
        )
        .await;
    let answer = client.head().await;
    assert!(answer.contains("trailer: x-end"), "{answer}");
    let body = client.until("\r\n\r\n").await.to_ascii_lowercase();
    assert_eq!(body, "3\r\nbye\r\n0\r\nx-end: 2\r\n\r\n");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_use() {
    let mut upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let mut client = rig.http1().await;
    let mut server = None;
    for (method, answer, kept) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "content-length: 1000",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 no content"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            "etag: \"a\"",
        ),
    ] {
        client
            .send(&format!(
                "{method} / HTTP/1.1\r\nHost: {}\r\nRange: bytes=0-1\r\n\r\n",
                rig.host()
            ))
            .await;
        if server.is_none() {
            server = Some(upstream.accept().await);
        }
        let server = server.as_mut().expect("a connection");
        let head = server.head().await;
        assert!(head.contains("range: bytes=0-1"), "{head}");
        server.send(answer).await;
        let head = client.head().await;
        assert!(head.contains(kept), "{head}");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_part_of_a_resource_is_passed_on_as_it_is() {
    let Exchange {
        mut client,
        mut server,
        ..
    } = Exchange::begin("GET / HTTP/1.1\r\nHost: HOST\r\nRange: bytes=2-4\r\n\r\n").await;
    server
        .send("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 3\r\n\r\ncde")
        .await;
    let head = client.head().await;
    assert!(
        head.contains("206") && head.contains("content-range: bytes 2-4/9"),
        "{head}"
    );
    assert_eq!(client.until("cde").await, "cde");
}

#[tokio::test]
async fn a_client_is_told_to_go_on_once_the_upstream_is_there() {
    let Exchange {
        mut client,
        mut server,
        head,
        ..
    } = Exchange::begin(
        "PUT /up HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(server.until("hello").await, "hello");
    server
        .send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("http/1.1 201"));
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_is_refused_without() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let answer = rig
        .exchange(
            "PUT / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn interim_answers_are_the_proxys_own() {
    let Exchange {
        mut client,
        mut server,
        ..
    } = Exchange::begin("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    server
        .send(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(client.until("ok").await, "ok");
}

#[tokio::test]
async fn an_upstream_that_dies_in_its_answer_leaves_no_clean_end() {
    for (answer, end) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
            "hello",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "5\r\nhello\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx",
            "5\r\nhello\r\n",
        ),
    ] {
        let Exchange {
            mut client,
            mut server,
            ..
        } = Exchange::begin("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
        server.send(answer).await;
        client.until("hello").await;
        drop(server);
        let rest = client.rest().await;
        assert!(!rest.contains("0\r\n"), "{rest:?}");
        assert!(
            "hello\r\n".ends_with(&rest) || rest.is_empty(),
            "{end:?} {rest:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_what_it_asked_for() {
    let mut upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    for answered in [false, true] {
        let mut client = rig.http1().await;
        client
            .send(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", rig.host()))
            .await;
        let mut server = upstream.accept().await;
        server.head().await;
        if answered {
            server
                .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
                .await;
            client.until("\r\n\r\nx").await;
        }
        drop(client);
        assert_eq!(server.rest().await, "", "the upstream's connection ends");
    }
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_and_both_connections() {
    let Exchange {
        mut client,
        mut server,
        ..
    } = Exchange::begin("PUT / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000000\r\n\r\nsome")
        .await;
    server.until("some").await;
    server
        .send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 413") && head.contains("connection: close"),
        "{head}"
    );
    assert_eq!(client.rest().await, "big");
    assert_eq!(
        server.rest().await,
        "",
        "nothing more comes to the upstream"
    );
}

#[tokio::test]
async fn a_credential_that_comes_back_is_taken_out() {
    let Exchange {
        rig,
        mut client,
        mut server,
        ..
    } = Exchange::begin("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    server
        .send(&format!(
            "HTTP/1.1 200 OK\r\nX-Echo: Bearer {TOKEN}\r\nX-Other: ok\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
    let head = client.head().await;
    assert!(
        head.contains("x-other: ok") && !head.contains(TOKEN),
        "{head}"
    );
    assert_eq!(Counters::read(&rig.counters().scrubbed), 1);
}

#[tokio::test]
async fn a_credential_that_comes_back_in_a_trailer_is_taken_out() {
    let Exchange {
        rig,
        mut client,
        mut server,
        ..
    } = Exchange::begin("GET / HTTP/1.1\r\nHost: HOST\r\nTE: trailers\r\n\r\n").await;
    server
        .send(&format!(
            "HTTP/1.1 200 OK\r\nTrailer: X-Echo, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\nbody\r\n0\r\nX-Echo: {TOKEN}\r\nX-Sum: 1\r\n\r\n"
        ))
        .await;
    client.head().await;
    let body = client.until("\r\n\r\n").await.to_ascii_lowercase();
    assert_eq!(body, "4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(Counters::read(&rig.counters().scrubbed), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_at_the_upstream_as_well() {
    let mut upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let mut client = rig.http1().await;
    client
        .send(&format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nbad\n",
            rig.host()
        ))
        .await;
    let mut server = upstream.accept().await;
    let seen = server.rest().await;
    assert!(!seen.contains("\r\n0\r\n"), "a whole request: {seen:?}");
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
}
