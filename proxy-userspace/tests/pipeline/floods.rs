//! Clients that keep a server of HTTP/2 busy for nothing. h2 has limits to all of it; what
//! counts is that the connection ends, and that others are served meanwhile and afterwards.

use crate::{
    frames::{
        ACK, CANCEL, CONTINUATION, Client, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS,
        PING, RST_STREAM, SETTINGS, get, list,
    },
    rig::{Rig, Upstream},
};

/// More than any connection needs.
const MANY: u32 = 200_000;

/// Another client still gets an answer, though it be a refusal: no upstream is asked.
async fn others_are_served(rig: &Rig) {
    let mut client = Client::connect(rig).await;
    client.request(1, END_STREAM, &get("other.test")).await;
    let head = client.wait_for(&[HEADERS]).await.expect("a head");
    assert_eq!(head.stream, 1);
}

/// CVE-2023-44487.
#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let host = rig.host();
    let mut client = Client::connect(&rig).await;
    let mut sent = 0;
    for n in 0..MANY {
        let stream = 1 + 2 * n;
        client.request(stream, END_STREAM, &get(&host)).await;
        let reset = CANCEL.to_be_bytes();
        if !client.send(RST_STREAM, 0, stream, &reset).await {
            break;
        }
        sent = n + 1;
    }
    let code = client.end().await;
    assert!(sent < MANY, "all were taken: {code:?}");
    assert!(
        code.is_none_or(|code| code == ENHANCE_YOUR_CALM),
        "{code:?}"
    );
    others_are_served(&rig).await;
}

/// CVE-2024-27316 and its kin: a header list without an end.
#[tokio::test]
async fn a_head_without_an_end_ends_the_connection() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let mut client = Client::connect(&rig).await;
    client
        .send(HEADERS, END_STREAM, 1, &list(&get("a.test")))
        .await;
    let more = list(&[("x-more", "and more"); 100]);
    let mut sent = 0;
    for n in 0..MANY {
        if !client.send(CONTINUATION, 0, 1, &more).await {
            break;
        }
        sent = n + 1;
    }
    assert!(sent < MANY, "all were taken");
    others_are_served(&rig).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let host = rig.host();
    let mut client = Client::connect(&rig).await;
    client
        .send(HEADERS, END_STREAM, 1, &list(&get(&host)))
        .await;
    // Over the limit of the list, and below that of frames.
    let value = "v".repeat(100);
    let more = list(&[("x-more", value.as_str()); 100]);
    for _ in 0..6 {
        client.send(CONTINUATION, 0, 1, &more).await;
    }
    client.send(CONTINUATION, END_HEADERS, 1, &more).await;
    let frame = client
        .wait_for(&[HEADERS, RST_STREAM, crate::frames::GOAWAY])
        .await;
    let refused = frame.as_ref().is_none_or(|frame| {
        // 431 is no status of the static table; 200 is.
        frame.kind != HEADERS || frame.payload.first() != Some(&0x88)
    });
    assert!(refused, "{frame:?}");
    assert_eq!(upstream.connections(), 0);
    others_are_served(&rig).await;
}

/// Each wants an answer, and nobody reads the answers: they must not pile up. The server stops
/// reading, and so the client cannot go on sending.
#[tokio::test]
async fn pings_and_settings_whose_answers_nobody_reads_are_not_taken_forever() {
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[][..])] {
        let upstream = Upstream::start().await;
        let rig = Rig::new(upstream.address);
        let mut client = Client::connect(&rig).await;
        let flood = async {
            for _ in 0..MANY * 20 {
                if !client.send(kind, 0, 0, payload).await {
                    return false;
                }
            }
            true
        };
        let pause = std::time::Duration::from_secs(3);
        // Blocked or closed: either is an end to it.
        let taken = tokio::time::timeout(pause, flood).await;
        assert!(!matches!(taken, Ok(true)), "all were taken");
        others_are_served(&rig).await;
    }
    // An acknowledgement of nothing is no crime.
    let upstream = Upstream::start().await;
    let rig = Rig::new(upstream.address);
    let mut client = Client::connect(&rig).await;
    client.send(PING, ACK, 0, &[0; 8]).await;
    client.request(1, END_STREAM, &get("other.test")).await;
    assert!(client.wait_for(&[HEADERS]).await.is_some());
}
