//! Watches and faults.

use std::time::Duration;

use fake_apiserver::{Fault, Matching, Options, Server};
use serde_json::json;

use crate::support::*;

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_continues_where_a_list_ended() {
    let server = server().await;
    post(&server, MAPS, &config_map("before")).await;
    let version = get(&server, MAPS).await.body["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    post(&server, MAPS, &config_map("a")).await;
    let mut lines = Lines::open(
        &server,
        &format!("{MAPS}?watch=true&resourceVersion={version}"),
    )
    .await;
    patch(
        &server,
        &format!("{MAPS}/a"),
        MERGE,
        &json!({"data": {"a": "2"}}),
    )
    .await;
    delete(&server, &format!("{MAPS}/a")).await;
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(lines.change().await, Some(event(kind, "a")));
    }
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_all_objects() {
    let server = server().await;
    post(&server, MAPS, &config_map("a")).await;
    let mut lines = Lines::open(&server, &format!("{MAPS}?watch=true")).await;
    assert_eq!(lines.change().await, Some(event("ADDED", "a")));
    let query = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::open(&server, &format!("{MAPS}?{query}")).await;
    assert_eq!(lines.change().await, Some(event("ADDED", "a")));
    let end = lines.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn an_object_that_leaves_a_selector_is_deleted_from_its_watch() {
    let server = server().await;
    let mut lines = Lines::open(&server, &format!("{MAPS}?watch=true&labelSelector=l")).await;
    let path = format!("{MAPS}/a");
    post(&server, MAPS, &config_map("a")).await;
    for label in [json!("x"), json!("y"), json!(null)] {
        patch(
            &server,
            &path,
            MERGE,
            &json!({"metadata": {"labels": {"l": label}}}),
        )
        .await;
    }
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(lines.change().await, Some(event(kind, "a")));
    }
}

#[tokio::test]
async fn bookmarks_move_a_watch_on() {
    let options = Options {
        bookmark_interval: Duration::from_millis(20),
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    let mut lines = Lines::open(
        &server,
        &format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion=1"),
    )
    .await;
    post(
        &server,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "other"}}),
    )
    .await;
    let newest = server.handle().revision().to_string();
    loop {
        let event = lines.next().await.unwrap();
        if event["type"] == "BOOKMARK" && event["object"]["metadata"]["resourceVersion"] == newest {
            break;
        }
    }
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_gets_410() {
    let server = server().await;
    post(&server, MAPS, &config_map("a")).await;
    server.handle().compact();
    post(&server, MAPS, &config_map("b")).await;
    let mut lines = Lines::open(&server, &format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let error = lines.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn watches_end_in_time_and_when_they_are_dropped() {
    let server = server().await;
    let mut short = Lines::open(&server, &format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(short.change().await, None);
    let mut dropped = Lines::open(&server, &format!("{MAPS}?watch=true")).await;
    server.handle().drop_watches();
    assert_eq!(dropped.next().await, None);
    let mut cut = Lines::open(&server, &format!("{MAPS}?watch=true")).await;
    server.handle().cut_connections();
    assert_eq!(cut.next().await, None);
}

#[tokio::test]
async fn faults_hit_as_many_requests_as_they_are_to() {
    let server = server().await;
    let handle = server.handle();
    handle.fail_next(1, Fault::TooManyRequests { retry_after: 7 });
    let refusal = get(&server, MAPS).await;
    refused(&refusal, 429, "TooManyRequests");
    assert_eq!(refusal.headers["retry-after"], "7");
    assert_eq!(get(&server, MAPS).await.status, 200);
    handle.fail_matching(
        Matching::new("create", "configmaps"),
        1,
        Fault::InternalError,
    );
    assert_eq!(get(&server, MAPS).await.status, 200);
    refused(
        &post(&server, MAPS, &config_map("a")).await,
        500,
        "InternalError",
    );
    assert_eq!(post(&server, MAPS, &config_map("a")).await.status, 201);
    assert_eq!(handle.writes().len(), 2);
    assert_eq!(handle.writes()[1].status, 201);
}
