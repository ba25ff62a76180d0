//! The kube client.

use std::time::Duration;

use fake_apiserver::{Fault, Matching, Server};
use futures_util::{StreamExt, pin_mut};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Config};
use serde_json::json;

use crate::support::*;

const LIMIT: Duration = Duration::from_secs(30);

fn api(server: &Server) -> (Api<DynamicObject>, ApiResource) {
    let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("example.test", "v1", "Widget"),
        "widgets",
    );
    (Api::namespaced_with(client, "default", &resource), resource)
}

fn object(name: &str) -> DynamicObject {
    serde_json::from_value(widget(name)).unwrap()
}

#[tokio::test]
async fn a_watcher_lists_again_after_410() {
    let server = server_with_widgets().await;
    let (api, _) = api(&server);
    api.create(&PostParams::default(), &object("a"))
        .await
        .unwrap();
    let stream = watcher(api.clone(), watcher::Config::default()).default_backoff();
    pin_mut!(stream);
    let mut seen = Vec::new();
    let mut fooled = false;
    while !seen.contains(&"b".to_owned()) {
        // Errors come between the two lists.
        match tokio::time::timeout(LIMIT, stream.next())
            .await
            .unwrap()
            .unwrap()
        {
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                seen.push(object.metadata.name.unwrap());
            }
            Ok(watcher::Event::InitDone) if !fooled => {
                fooled = true;
                // The watch has to start from a version that is forgotten.
                server.handle().fail_matching(
                    Matching::new("watch", "widgets"),
                    1,
                    Fault::InternalError,
                );
                server.handle().drop_watches();
                api.create(&PostParams::default(), &object("b"))
                    .await
                    .unwrap();
                server.handle().compact();
            }
            Ok(_) | Err(_) => {}
        }
    }
    let lists = server
        .handle()
        .requests()
        .iter()
        .filter(|request| request.verb == "list" && request.resource == "widgets")
        .count();
    assert_eq!(lists, 2, "{seen:?}");
}

#[tokio::test]
async fn a_status_is_applied_and_an_equal_one_writes_nothing() {
    let server = server_with_widgets().await;
    let (api, _) = api(&server);
    api.create(&PostParams::default(), &object("a"))
        .await
        .unwrap();
    let status = json!({"apiVersion": "example.test/v1", "kind": "Widget", "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let parameters = PatchParams::apply("controller").force();
    let first = api
        .patch_status("a", &parameters, &Patch::Apply(&status))
        .await
        .unwrap();
    let second = api
        .patch_status("a", &parameters, &Patch::Apply(&status))
        .await
        .unwrap();
    assert_eq!(
        first.metadata.resource_version,
        second.metadata.resource_version
    );
    assert_eq!(first.data["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn a_reflector_follows_through_pages_and_an_outage() {
    let server = server_with_widgets().await;
    let handle = server.handle();
    for index in 0..7 {
        handle
            .create(
                "example.test/v1",
                "widgets",
                "default",
                widget(&format!("w{index}")),
            )
            .unwrap();
    }
    let (api, resource) = api(&server);
    let writer = reflector::store::Writer::<DynamicObject>::new(resource);
    let store = writer.as_reader();
    let stream = reflector(
        writer,
        watcher(api, watcher::Config::default().page_size(3)),
    )
    .default_backoff()
    .touched_objects();
    let task = tokio::spawn(stream.for_each(|_| async {}));
    tokio::time::timeout(LIMIT, store.wait_until_ready())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.len(), 7);
    handle.set_away(true);
    handle
        .create("example.test/v1", "widgets", "default", widget("late"))
        .unwrap();
    handle.set_away(false);
    let arrived = async {
        while store.len() < 8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, arrived).await.unwrap();
    task.abort();
}
