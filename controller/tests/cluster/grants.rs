//! Who may use which Connectors.

use fake_apiserver::{Fault, Matching};
use serde_json::json;

use crate::objects;
use crate::world::World;

#[tokio::test]
async fn a_pod_of_another_namespace_gets_nothing() {
    let world = World::with_connector().await;
    world.put(objects::pod("other", "b", "node-2")).await;
    let controller = world.start().await;
    controller.node("node-1").wait_for_usable(&["api"]).await;
    let mut node = controller.node("node-2");
    let update = node.wait_for("its pod", |it| it.workloads.len() == 1).await;
    assert!(update.connectors.is_empty() && update.policies.is_empty());
    assert_eq!(update.workloads[0].policy, 0);
}

#[tokio::test]
async fn a_grant_comes_and_goes_with_its_binding() {
    let world = World::with_connector().await;
    world.delete("RoleBinding", "users").await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    let before = node.wait_for("its pod", |it| it.workloads.len() == 1).await;
    assert!(before.connectors.is_empty());
    world.put(objects::binding()).await;
    let granted = node.wait_for_usable(&["api"]).await;
    assert_ne!(granted.workloads[0].policy, 0);
    world.delete("RoleBinding", "users").await;
    node.wait_for("no Connector", |it| it.connectors.is_empty())
        .await;
}

#[tokio::test]
async fn a_role_may_name_its_connectors() {
    let world = World::with_connector().await;
    world.put(objects::connector("second", "login")).await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api", "second"]).await;
    world.put(objects::role(&["second"])).await;
    node.wait_for_usable(&["second"]).await;
    world.put(objects::role(&["api"])).await;
    node.wait_for_usable(&["api"]).await;
    world.put(objects::role(&[])).await;
    node.wait_for_usable(&["api", "second"]).await;
}

#[tokio::test]
async fn a_change_of_roles_asks_about_its_own_namespace_only() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    controller.node("node-1").wait_for_usable(&["api"]).await;
    world.handle().clear_requests();
    let mut elsewhere = objects::role(&[]);
    elsewhere["metadata"]["namespace"] = "other".into();
    world.put(elsewhere).await;
    world.wait_for_calm(&controller, "other").await;
    let asked = || {
        let requests = world.requests().into_iter();
        requests
            .filter(|it| it.resource == "subjectaccessreviews")
            .count()
    };
    assert_eq!(asked(), 0);
    world.put(objects::role(&["api"])).await;
    controller.node("node-1").wait_for_usable(&["api"]).await;
    crate::world::wait_until(|| asked() > 0, || "nothing was asked".to_owned()).await;
}

#[tokio::test]
async fn a_pod_that_ends_or_goes_is_forgotten() {
    let world = World::with_connector().await;
    world.put(objects::pod("team", "b", "node-1")).await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    let names = |update: &proxy_common::distribution::NodeUpdate| {
        let mut names: Vec<String> = update.workloads.iter().map(|it| it.name.clone()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    node.wait_for("both", |it| names(it) == "a b").await;
    world.set_phase("a", "Succeeded").await;
    node.wait_for("one", |it| names(it) == "b").await;
    world.delete("Pod", "b").await;
    let update = node.wait_for("none", |it| it.workloads.is_empty()).await;
    assert!(update.connectors.is_empty(), "nobody is there to use it");
}

#[tokio::test]
async fn a_pod_whose_reviews_have_no_answer_is_sent_as_pending() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api"]).await;
    let reviews = Matching::new("create", "subjectaccessreviews");
    world
        .handle()
        .fail_matching(reviews, usize::MAX, Fault::Unavailable);
    world
        .put(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": "team", "name": "newcomer"},
        }))
        .await;
    let mut newcomer = objects::pod("team", "b", "node-1");
    newcomer["spec"]["serviceAccountName"] = "newcomer".into();
    world.put(newcomer).await;
    let of = |update: &proxy_common::distribution::NodeUpdate| {
        let newcomer = update.workloads.iter().find(|it| it.name == "b");
        newcomer.map(|it| (it.pending, it.policy != 0))
    };
    node.wait_for("it", |it| of(it) == Some((true, false)))
        .await;
    world.handle().clear_faults();
    node.wait_for("its grants", |it| {
        of(it).is_some_and(|(pending, _)| !pending)
    })
    .await;
}
