//! The `ConfigMaps` with the root.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fake_apiserver::{Fault, Matching};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, Config};
use postern_controller::authority::{BUNDLE, BUNDLE_KEY, keep_bundles, write_bundle};
use serde_json::json;
use tokio::sync::watch;

use crate::support::{NAMESPACE, World, soon};

const RESYNC: Duration = Duration::from_millis(50);

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until the `ConfigMap` of a namespace holds the root.
async fn until_right(world: &World, namespace: &str, root: &str) {
    let handle = world.api.handle();
    let right = async {
        loop {
            let map = handle.object("v1", "configmaps", namespace, BUNDLE);
            if map.is_ok_and(|map| map["data"][BUNDLE_KEY] == root) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(right).await;
}

#[tokio::test]
async fn what_is_right_is_not_written_again() {
    let world = World::new().await;
    let authority = world.authority().await;
    let handle = world.api.handle();
    assert!(
        write_bundle(&authority, &world.client, "team")
            .await
            .unwrap()
    );
    assert_eq!(world.bundle("team"), authority.root_pem());
    handle.clear_requests();
    for _ in 0..3 {
        assert!(
            !write_bundle(&authority, &world.client, "team")
                .await
                .unwrap()
        );
    }
    assert!(handle.writes().is_empty());
    assert_eq!(world.count("get", "configmaps"), 3);
}

#[tokio::test]
async fn keys_of_others_stay() {
    let world = World::new().await;
    let authority = world.authority().await;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "team", "name": BUNDLE},
        "data": {BUNDLE_KEY: "something else", "note": "kept"},
    });
    let handle = world.api.handle();
    handle.create("v1", "configmaps", "team", object).unwrap();
    assert!(
        write_bundle(&authority, &world.client, "team")
            .await
            .unwrap()
    );
    let map = handle.object("v1", "configmaps", "team", BUNDLE).unwrap();
    assert_eq!(
        map["data"],
        json!({BUNDLE_KEY: authority.root_pem(), "note": "kept"})
    );
}

#[tokio::test]
async fn namespaces_are_kept_right_and_one_that_refuses_holds_up_no_other() {
    let world = World::new().await;
    let authority = world.authority().await;
    let root = authority.root_pem();
    let handle = world.api.handle();
    let (wanted, namespaces) = watch::channel(names(&["nowhere"]));
    let client = world.client.clone();
    let task = tokio::spawn(keep_bundles(
        Arc::clone(&authority),
        client,
        namespaces,
        RESYNC,
    ));
    until_right(&world, NAMESPACE, root).await;
    wanted.send(names(&["nowhere", "team"])).unwrap();
    until_right(&world, "team", root).await;

    // Changed, then deleted by somebody who may.
    let maps = maps(&world);
    let change = Patch::Merge(json!({"data": {BUNDLE_KEY: "changed"}}));
    let params = PatchParams::default();
    maps.patch(BUNDLE, &params, &change).await.unwrap();
    until_right(&world, "team", root).await;
    handle.fail_matching(Matching::new("get", "configmaps"), 2, Fault::Unavailable);
    maps.delete(BUNDLE, &DeleteParams::default()).await.unwrap();
    until_right(&world, "team", root).await;

    // Looked at again and again, and nothing is written.
    let own = |verb| {
        let requests = handle.requests();
        let team = requests
            .iter()
            .filter(|it| it.verb == verb && it.path.contains("/namespaces/team/configmaps"));
        team.count()
    };
    handle.clear_requests();
    soon(async {
        while own("get") < 5 {
            tokio::time::sleep(RESYNC).await;
        }
    })
    .await;
    assert_eq!(own("patch") + own("create") + own("update"), 0);

    drop(wanted);
    soon(task).await.unwrap();
}

fn maps(world: &World) -> Api<ConfigMap> {
    let mut config = Config::new(world.api.url().parse().unwrap());
    config.auth_info.token = Some(crate::support::ADMIN_TOKEN.to_owned().into());
    Api::namespaced(Client::try_from(config).unwrap(), "team")
}
