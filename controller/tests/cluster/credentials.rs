//! From Connectors, classes and Secrets to conditions, and to what nodes are told.

use proxy_common::distribution::credential::Kind;
use serde_json::json;

use crate::objects;
use crate::world::{World, usable, wait_until};

#[tokio::test]
async fn a_sound_connector_is_ready_and_reaches_the_node() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    let update = controller.node("node-1").wait_for_usable(&["api"]).await;
    let credential = update.connectors[0].credential.as_ref();
    let Some(Kind::Basic(basic)) = credential.and_then(|it| it.kind.as_ref()) else {
        panic!("user and password");
    };
    assert_eq!((&*basic.username, &*basic.password), ("robot", "hunter2"));
    for type_ in ["ConnectorClassReady", "SecretReady", "Ready"] {
        world.wait_for_condition(type_, "True||").await;
    }
    assert!(controller.pulse.beats().await);
}

#[tokio::test]
async fn a_secret_may_come_change_and_go() {
    let world = World::with_connector().await;
    world.delete("Secret", "login").await;
    let controller = world.start().await;
    let not_found = "False|SecretNotFound|secrets \"login\" not found";
    world.wait_for_condition("SecretReady", not_found).await;
    let mut node = controller.node("node-1");
    let update = node
        .wait_for("it is refused", |it| it.connectors.len() == 1)
        .await;
    assert_eq!(usable(&update), [""; 0]);

    world.put(objects::secret("login", "hunter2")).await;
    let first = node.wait_for_usable(&["api"]).await;
    world.wait_for_condition("Ready", "True||").await;

    world.put(objects::secret("login", "hunter3")).await;
    let generation = first.connectors[0].generation;
    let rotated = node
        .wait_for("a new generation", |it| {
            it.connectors[0].generation > generation && it.connectors[0].usable
        })
        .await;
    assert_ne!(first.connectors[0].revision, rotated.connectors[0].revision);
    let credential = rotated.connectors[0].credential.as_ref();
    let Some(Kind::Basic(basic)) = credential.and_then(|it| it.kind.as_ref()) else {
        panic!("user and password");
    };
    assert_eq!(basic.password, "hunter3");

    world.delete("Secret", "login").await;
    let update = node.wait_for_usable(&[]).await;
    assert!(update.connectors[0].credential.is_none());
    world.wait_for_condition("SecretReady", not_found).await;
}

#[tokio::test]
async fn a_secret_that_is_there_before_its_connector_is_read_then() {
    let world = World::with_connector().await;
    world.put(objects::secret("second", "hunter2")).await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api"]).await;
    let reads = |name: &str| {
        let path = format!("/api/v1/namespaces/team/secrets/{name}");
        world.requests().iter().filter(|it| it.path == path).count()
    };
    assert_eq!((reads("login"), reads("second")), (1, 0));
    world.put(objects::connector("late", "second")).await;
    node.wait_for_usable(&["api", "late"]).await;
    assert_eq!((reads("login"), reads("second")), (1, 1));
}

#[tokio::test]
async fn a_class_may_come_and_go() {
    let world = World::with_connector().await;
    world.delete("ConnectorClass", "basic").await;
    let controller = world.start().await;
    let not_found = "False|ConnectorClassNotFound|connectorclasses.connectors.postern.dev \
                     \"basic\" not found";
    let type_ = "ConnectorClassReady";
    world.wait_for_condition(type_, not_found).await;
    let mut node = controller.node("node-1");
    world.put(objects::class()).await;
    node.wait_for_usable(&["api"]).await;
    world.wait_for_condition("Ready", "True||").await;
    world.delete("ConnectorClass", "basic").await;
    node.wait_for_usable(&[]).await;
    world.wait_for_condition(type_, not_found).await;
}

#[tokio::test]
async fn a_deleted_connector_is_gone_from_the_node_and_may_come_back() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    let first = node.wait_for_usable(&["api"]).await;
    world.delete("Connector", "api").await;
    node.wait_for("no Connector", |it| it.connectors.is_empty())
        .await;
    world.put(objects::connector("api", "login")).await;
    let second = node.wait_for_usable(&["api"]).await;
    assert_ne!(first.connectors[0].id, second.connectors[0].id);
    world.wait_for_condition("Ready", "True||").await;
}

#[tokio::test]
async fn a_connector_that_cannot_be_read_stops_no_other() {
    let world = World::without_kinds().await;
    // As a newer version of the kinds has it.
    world.define_kinds(|version| {
        let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["novelty"] = json!({"type": "string"});
    });
    let mut newer = objects::connector("newer", "login");
    newer["spec"]["novelty"] = json!("unheard of");
    for object in [
        newer.clone(),
        objects::class(),
        objects::secret("login", "hunter2"),
        objects::role(&[]),
        objects::binding(),
        objects::pod("team", "a", "node-1"),
        objects::connector("api", "login"),
    ] {
        world.put(object).await;
    }
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api"]).await;
    let seen = || world.condition("newer", "Ready");
    let told = || seen().starts_with("False|InvalidSpec|") && seen().contains("`novelty`");
    wait_until(told, seen).await;
    world.put(objects::connector("newer", "login")).await;
    node.wait_for_usable(&["api", "newer"]).await;
    // What nodes know of it they refuse from now on; without it they would let it pass.
    world.put(newer).await;
    let update = node.wait_for_usable(&["api"]).await;
    assert_eq!(update.connectors.len(), 2);
    wait_until(told, seen).await;
}
