//! What is sent to whom.

use std::sync::Arc;

use proxy_common::distribution::credential::Kind;

use super::*;
use crate::snapshot::{Feed, Node, NodeState};
use crate::testing::login;

fn state(node: &mut Node, catalog: &Catalog, reviews: &Reviews) -> Arc<NodeState> {
    Arc::new(node.evaluate(catalog, reviews).0)
}

/// Two Connectors with a Secret, and a node with a pod that may use them and one that may not.
fn scene() -> (Catalog, Node, Reviews) {
    let mut catalog = catalog();
    let secret = login("hunter2");
    for (name, address) in [
        ("a", "https://a.example.com"),
        ("b", "https://b.example.com"),
    ] {
        publish(&mut catalog, name, &at(address), Some((&secret, "1")));
    }
    let mut node = Node::default();
    node.upsert(pod("1", "team", "builder"));
    node.upsert(pod("2", "team", "stranger"));
    let mut reviews = allowed(&["builder"]);
    reviews.answer(review("stranger", None), false);
    (catalog, node, reviews)
}

#[test]
fn the_first_message_is_full_and_carries_the_credential() {
    let (catalog, mut node, reviews) = scene();
    let update = Feed::default().next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert!(update.full);
    assert_eq!(update.version, 1);
    assert_eq!(update.connectors.len(), 2);
    for connector in &update.connectors {
        assert!(connector.usable);
        let credential = connector
            .credential
            .as_ref()
            .and_then(|it| it.kind.as_ref());
        let Some(Kind::Basic(basic)) = credential else {
            panic!("not Basic");
        };
        assert_eq!((&*basic.username, &*basic.password), ("me", "hunter2"));
    }
    let policies: Vec<u32> = update.workloads.iter().map(|it| it.policy).collect();
    assert_eq!(policies, [update.policies[0].id, 0]);
}

#[test]
fn an_empty_node_is_told_so_once() {
    let (catalog, _, reviews) = scene();
    let state = state(&mut Node::default(), &catalog, &reviews);
    let mut feed = Feed::default();
    let update = feed.next(&state).expect("a message");
    assert!(update.full && update.connectors.is_empty() && update.workloads.is_empty());
    assert!(feed.next(&state).is_none());
}

#[test]
fn a_node_gets_no_connector_that_none_of_its_pods_is_granted() {
    let (catalog, _, reviews) = scene();
    for (name, pod) in [
        ("refused", pod("2", "team", "stranger")),
        ("not answered yet", pod("3", "team", "newcomer")),
        ("of another namespace", pod("4", "other", "builder")),
    ] {
        let mut node = Node::default();
        node.upsert(pod);
        let update = state(&mut node, &catalog, &reviews).full(1);
        assert!(update.connectors.is_empty(), "{name}");
        assert!(update.policies.is_empty(), "{name}");
        assert_eq!(update.workloads.len(), 1, "{name}");
        assert_eq!(update.workloads[0].policy, 0, "{name}");
    }
}

#[test]
fn what_is_not_decided_about_is_sent_to_be_refused() {
    let (mut catalog, mut node, mut reviews) = scene();
    let open = {
        let mut spec = at("https://open.example.com");
        spec["interception"] = json!({"failurePolicy": "Open"});
        spec
    };
    publish(&mut catalog, "open", &open, Some((&login("hunter2"), "1")));
    node.remove("1");
    reviews.answer(review("stranger", Some("a")), true);
    let mut agent = Agent::default();
    let mut feed = Feed::default();
    let partial = state(&mut node, &catalog, &reviews);
    assert_eq!(
        partial.hosts(),
        ["a.example.com"],
        "nobody vouches for the rest"
    );
    agent.apply(feed.next(&partial).expect("a message"));
    agent.assert_is_consistent();
    assert!(agent.workloads["2"].pending && agent.workloads["2"].policy != 0);
    // One that fails open is left alone meanwhile.
    let found: Vec<_> = agent.connectors.values().collect();
    let [a, b] = found.as_slice() else {
        panic!("{} Connectors", found.len());
    };
    assert_eq!((&*a.name, a.usable, a.undecided), ("a", true, false));
    assert_eq!((&*b.name, b.usable, b.undecided), ("b", false, true));
    assert!(b.credential.is_none() && b.addresses[0].host == "b.example.com");

    // Who is granted it has the Connector itself beside that.
    node.upsert(pod("1", "team", "builder"));
    let both = state(&mut node, &catalog, &reviews);
    agent.apply(feed.next(&both).expect("a message"));
    agent.assert_is_consistent();
    let named = agent.connectors.values().filter(|it| it.name == "b");
    let usable: Vec<_> = named.map(|it| (it.usable, it.undecided)).collect();
    assert_eq!(usable, [(true, false), (false, true)]);

    for connector in ["b", "open"] {
        reviews.answer(review("stranger", Some(connector)), false);
    }
    agent.apply(
        feed.next(&state(&mut node, &catalog, &reviews))
            .expect("a message"),
    );
    agent.assert_is_consistent();
    assert!(agent.connectors.values().all(|it| !it.undecided));
    assert!(!agent.workloads["2"].pending);
}

#[test]
fn open_reviews_are_asked_for() {
    let (catalog, mut node, _) = scene();
    let (_, open) = node.evaluate(&catalog, &Reviews::default());
    let expected = [review("builder", None), review("stranger", None)];
    assert!(open.into_iter().eq(expected));
}

#[test]
fn a_pod_is_sent_before_it_is_known_what_it_is_granted() {
    let (catalog, mut node, mut reviews) = scene();
    node.upsert(pod("3", "team", "newcomer"));
    let mut feed = Feed::default();
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    let of = |update: &wire::NodeUpdate, uid: &str| {
        let workload = update.workloads.iter().find(|it| it.pod_uid == uid);
        workload.map(|it| (it.pending, it.policy != 0))
    };
    assert_eq!(of(&update, "3"), Some((true, false)));
    assert_eq!(of(&update, "1"), Some((false, true)));
    assert_eq!(
        of(&update, "2"),
        Some((true, false)),
        "each Connector is open"
    );

    // A no is an answer as well.
    for connector in [None, Some("a"), Some("b")] {
        reviews.answer(review("newcomer", connector), false);
    }
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert_eq!(of(&update, "3"), Some((false, false)));
    assert_eq!(update.workloads.len(), 1);
}

#[test]
fn nothing_is_sent_when_nothing_changed() {
    let (catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    feed.next(&state(&mut node, &catalog, &reviews));
    assert!(feed.next(&state(&mut node, &catalog, &reviews)).is_none());
}

#[test]
fn a_rotation_sends_the_one_connector() {
    let (mut catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    feed.next(&state(&mut node, &catalog, &reviews));
    let rotated = login("hunter3");
    publish(
        &mut catalog,
        "a",
        &at("https://a.example.com"),
        Some((&rotated, "2")),
    );
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert!(!update.full);
    assert_eq!(update.version, 2);
    assert!(update.policies.is_empty() && update.workloads.is_empty());
    let names: Vec<&str> = update.connectors.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(update.connectors[0].generation, 2);
}

#[test]
fn a_deleted_secret_takes_the_credential_away_and_keeps_the_connector() {
    let (mut catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    feed.next(&state(&mut node, &catalog, &reviews));
    publish(&mut catalog, "a", &at("https://a.example.com"), None);
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    let [connector] = &update.connectors[..] else {
        panic!("not one Connector");
    };
    assert!(!connector.usable && connector.credential.is_none());
    assert!(update.removed_connectors.is_empty());
    assert_eq!(connector.addresses[0].host, "a.example.com");
}

#[test]
fn a_deleted_connector_goes_with_its_policy() {
    let (mut catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    let mut agent = Agent::default();
    agent.apply(
        feed.next(&state(&mut node, &catalog, &reviews))
            .expect("a message"),
    );
    let policy = *agent.policies.keys().next().expect("a policy");
    catalog.remove("team", "a");
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert_eq!(update.removed_connectors.len(), 1);
    assert_eq!(update.removed_policies, [policy]);
    agent.apply(update);
    agent.assert_is_consistent();
    assert_eq!(agent.connectors.len(), 1);
}

#[test]
fn a_deleted_pod_goes() {
    let (catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    feed.next(&state(&mut node, &catalog, &reviews));
    node.remove("1");
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert_eq!(update.removed_workloads, ["1"]);
    assert_eq!(update.removed_connectors.len(), 2);
    assert_eq!(update.removed_policies.len(), 1);
}

#[test]
fn an_address_that_a_pod_gets_is_sent() {
    let (catalog, mut node, reviews) = scene();
    let mut feed = Feed::default();
    feed.next(&state(&mut node, &catalog, &reviews));
    let mut moved = pod("1", "team", "builder");
    moved.ips.push("2001:db8::1".to_owned());
    node.upsert(moved);
    let update = feed.next(&state(&mut node, &catalog, &reviews));
    let update = update.expect("a message");
    assert_eq!(update.workloads[0].ips, ["192.0.2.1", "2001:db8::1"]);
    assert!(update.connectors.is_empty() && update.policies.is_empty());
}
