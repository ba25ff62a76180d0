//! Restarts, lost watches, an API server in trouble; and calm.

use std::sync::Arc;
use std::time::Duration;

use fake_apiserver::{Fault, Matching};
use postern_controller::nodes::Nodes;

use crate::objects;
use crate::world::{Agent, World, usable, wait_until};

#[tokio::test]
async fn a_restart_writes_nothing_and_takes_nothing_away_for_a_moment() {
    let world = World::with_connector().await;
    world.put(objects::role(&["api"])).await;
    let controller = world.start().await;
    world.wait_for_condition("Ready", "True||").await;
    let before = controller.node("node-1").wait_for_usable(&["api"]).await;
    world.wait_for_calm(&controller, "before").await;
    drop(controller);
    let status = world.connector("api")["status"].clone();
    world.handle().clear_requests();

    // What it has to know comes late, one after the other.
    let late = Duration::from_millis(200);
    for (verb, resource) in [
        ("list", "connectors"),
        ("list", "pods"),
        ("get", "secrets"),
        ("create", "subjectaccessreviews"),
    ] {
        world.handle().delay(Matching::new(verb, resource), late);
    }
    let nodes = Arc::new(Nodes::default());
    let mut agent = Agent(nodes.subscribe("node-1"));
    assert!(agent.state().is_none());
    let controller = world.start_with(nodes).await;
    let first = agent.wait_for("anything", |_| true).await;
    assert_eq!(usable(&first), ["api"]);
    assert_eq!(first.workloads.len(), before.workloads.len());
    assert_ne!(first.workloads[0].policy, 0);

    world.wait_for_calm(&controller, "after").await;
    assert_eq!(world.writes(), []);
    assert_eq!(world.connector("api")["status"], status);
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    world.wait_for_condition("Ready", "True||").await;
    world.wait_for_calm(&controller, "before").await;
    let writes = world.writes();
    assert_eq!(writes.len(), 1, "one status: {writes:?}");
    world.handle().clear_requests();
    // Every watch begins again, and other objects come and go.
    world.handle().drop_watches();
    world.put(objects::secret("unrelated", "hunter2")).await;
    world.delete("Secret", "unrelated").await;
    world.wait_for_calm(&controller, "after").await;
    assert_eq!(world.writes(), []);
    let read = |resource: &str| {
        let requests = world.requests().into_iter();
        requests
            .filter(|it| it.resource == resource && it.verb == "get")
            .count()
    };
    assert_eq!(read("secrets"), 0, "nobody names it");
}

#[tokio::test]
async fn what_happens_while_the_watches_are_gone_is_noticed() {
    let world = World::with_connector().await;
    for object in [
        objects::secret("other", "hunter2"),
        objects::connector("gone", "other"),
        objects::connector("kept", "other"),
        objects::pod("team", "ends", "node-2"),
    ] {
        world.put(object).await;
    }
    let controller = world.start().await;
    let (mut one, mut two) = (controller.node("node-1"), controller.node("node-2"));
    for node in [&mut one, &mut two] {
        node.wait_for_usable(&["api", "gone", "kept"]).await;
    }

    let any_watch = Matching::new("watch", "");
    let fault = Fault::Unavailable;
    world.handle().fail_matching(any_watch, usize::MAX, fault);
    world.handle().drop_watches();
    world.delete("Connector", "gone").await;
    world.delete("Secret", "login").await;
    world.delete("Pod", "ends").await;
    world.put(objects::pod("team", "begins", "node-3")).await;
    world.put(objects::connector("new", "other")).await;
    // No watch can go on from where it was.
    world.handle().compact();
    world.handle().clear_faults();

    let expected = ["kept", "new"];
    one.wait_for_usable(&expected).await;
    controller.node("node-3").wait_for_usable(&expected).await;
    two.wait_for("no pod", |it| it.workloads.is_empty()).await;
    let not_found = "False|SecretNotFound|secrets \"login\" not found";
    world.wait_for_condition("SecretReady", not_found).await;
}

#[tokio::test]
async fn roles_that_change_while_the_watches_are_gone_are_noticed() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api"]).await;
    let any_watch = Matching::new("watch", "");
    let fault = Fault::InternalError;
    world.handle().fail_matching(any_watch, usize::MAX, fault);
    world.handle().drop_watches();
    world.delete("RoleBinding", "users").await;
    world.handle().compact();
    world.handle().clear_faults();
    node.wait_for_usable(&[]).await;
}

#[tokio::test]
async fn an_api_server_in_trouble_is_asked_again() {
    let world = World::with_connector().await;
    let handle = world.handle();
    let too_many = Fault::TooManyRequests { retry_after: 1 };
    handle.fail_matching(Matching::new("list", "pods"), 1, too_many);
    handle.fail_matching(Matching::new("get", "secrets"), 3, Fault::Timeout);
    let reviews = Matching::new("create", "subjectaccessreviews");
    handle.fail_matching(reviews, 2, Fault::InternalError);
    let statuses = || Matching::new("patch", "connectors");
    handle.fail_matching(statuses(), 1, too_many);
    handle.fail_matching(statuses(), 1, Fault::Conflict);
    let controller = world.start().await;
    controller.node("node-1").wait_for_usable(&["api"]).await;
    world.wait_for_condition("Ready", "True||").await;

    handle.cut_connections();
    handle.fail_matching(Matching::new("get", "secrets"), 2, Fault::InternalError);
    world.put(objects::connector("late", "late")).await;
    world.put(objects::secret("late", "hunter2")).await;
    let mut node = controller.node("node-1");
    node.wait_for_usable(&["api", "late"]).await;
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_not_told_to_be_missing() {
    let world = World::with_connector().await;
    let reads = Matching::new("get", "secrets");
    let fault = Fault::InternalError;
    world.handle().fail_matching(reads, usize::MAX, fault);
    let controller = world.start().await;
    let mut node = controller.node("node-1");
    // Nodes are told what there is, and that it is of no use.
    let update = node
        .wait_for("it is refused", |it| it.connectors.len() == 1)
        .await;
    assert!(!update.connectors[0].usable);
    world.wait_for_calm(&controller, "calm").await;
    assert_eq!(world.writes(), []);
    world.handle().clear_faults();
    node.wait_for_usable(&["api"]).await;
    world.wait_for_condition("Ready", "True||").await;
}

#[tokio::test]
async fn every_watch_ends_within_a_minute() {
    let world = World::with_connector().await;
    let controller = world.start().await;
    controller.node("node-1").wait_for_usable(&["api"]).await;
    let watches = || {
        let requests = world.requests().into_iter();
        requests.filter(|it| it.verb == "watch").collect::<Vec<_>>()
    };
    wait_until(|| watches().len() >= 8, || format!("{:?}", watches())).await;
    for watch in watches() {
        let query = format!("&{}&", watch.query);
        assert!(query.contains("&timeoutSeconds=60&"), "{watch:?}");
    }
}

#[tokio::test]
async fn a_status_that_somebody_else_changes_is_put_right() {
    let world = World::with_connector().await;
    let _controller = world.start().await;
    world.wait_for_condition("Ready", "True||").await;
    let writes = || world.writes().len();
    let before = writes();
    world.spoil_status("api").await;
    wait_until(|| writes() > before, || "nothing is written".to_owned()).await;
    world.wait_for_condition("Ready", "True||").await;
}
