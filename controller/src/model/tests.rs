use connectors::condition::ConditionStatus::{self, False, True};
use serde_json::json;

use super::*;
use crate::testing::{basic, identified, login, manifest, mutual, pair, sound};

const NOW: &str = "2026-01-01T00:00:00Z";

fn api() -> Key {
    Key::new("team", "api")
}

fn held(password: &str, resource_version: &str) -> HeldSecret {
    HeldSecret {
        data: login(password),
        uid: "uid of the secret".to_owned(),
        resource_version: resource_version.to_owned(),
    }
}

fn pod(uid: &str, namespace: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: format!("pod-{uid}"),
        service_account: "builder".to_owned(),
        ips: Vec::new(),
        host_network: false,
    }
}

fn review() -> Review {
    Review {
        namespace: "team".to_owned(),
        service_account: "builder".to_owned(),
        connector: None,
    }
}

/// `status` of the condition `Ready` that is to be written for the Connector `api`.
fn ready(effects: &Effects) -> Option<ConditionStatus> {
    let status = effects.statuses.get(&api())?;
    let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
    Some(ready.expect("it is always there").status)
}

/// A sound Connector, its class and Secret; a node with a pod that may use it, and one with
/// a pod of another namespace.
fn model() -> Model {
    let mut model = Model::new().expect("randomness");
    model.upsert_pod("node-1", pod("1", "team"));
    model.upsert_pod("node-2", pod("2", "other"));
    model.answer(review(), true);
    model.upsert_class(basic(), NOW);
    model.upsert_connector(manifest("api", &sound()), NOW);
    model.upsert_secret(Key::new("team", "login"), held("hunter2", "1"), NOW);
    model
}

fn node_1() -> BTreeSet<String> {
    BTreeSet::from(["node-1".to_owned()])
}

#[test]
fn objects_may_come_in_any_order() {
    type Step = fn(&mut Model) -> Effects;
    let connector: Step = |model| model.upsert_connector(manifest("api", &sound()), NOW);
    let class: Step = |model| model.upsert_class(basic(), NOW);
    let secret: Step = |model| {
        let key = Key::new("team", "login");
        // As a caller does: only those that are wanted.
        if model.wants_secret(&key) {
            return model.upsert_secret(key, held("hunter2", "1"), NOW);
        }
        Effects::default()
    };
    for (name, steps) in [
        ("connector first", [connector, class, secret, secret]),
        ("class last", [connector, secret, class, class]),
        ("secret asked for again", [secret, class, connector, secret]),
    ] {
        let mut model = Model::new().expect("randomness");
        let said: Vec<_> = steps
            .iter()
            .filter_map(|step| ready(&step(&mut model)))
            .collect();
        assert_eq!(said.last(), Some(&True), "{name}");
        assert!(
            said[..said.len() - 1].iter().all(|it| *it == False),
            "{name}"
        );
    }
}

#[test]
fn what_is_there_already_has_no_effect() {
    let mut model = model();
    let nothing = Effects::default();
    let mut shown = manifest("api", &sound());
    shown.status = model.connectors[&api()].status.clone();
    assert_eq!(model.upsert_connector(shown, "later"), nothing);
    assert_eq!(model.upsert_class(basic(), "later"), nothing);
    let key = Key::new("team", "login");
    assert_eq!(
        model.upsert_secret(key, held("hunter2", "1"), "later"),
        nothing
    );
    assert_eq!(model.upsert_pod("node-1", pod("1", "team")), nothing);
    assert_eq!(model.remove_pod("node-1", "unknown"), nothing);
    assert_eq!(
        model.remove_connector(&Key::new("team", "unknown"), NOW),
        nothing
    );
}

#[test]
fn a_rotation_is_told_to_the_nodes_of_the_namespace_and_writes_nothing() {
    let mut model = model();
    let key = Key::new("team", "login");
    let effects = model.upsert_secret(key, held("hunter3", "2"), NOW);
    assert_eq!(effects.nodes, node_1());
    assert!(effects.statuses.is_empty());
}

#[test]
fn a_deleted_secret_is_told_and_written_at_once() {
    let mut model = model();
    let effects = model.remove_secret(&Key::new("team", "login"), NOW);
    assert_eq!(effects.nodes, node_1());
    assert_eq!(ready(&effects), Some(False));
    let update = model.evaluate("node-1").0.full(1);
    assert!(!update.connectors[0].usable && update.connectors[0].credential.is_none());
}

#[test]
fn a_deleted_class_is_told_and_written_at_once() {
    let mut model = model();
    let effects = model.remove_class("basic", NOW);
    assert_eq!(effects.nodes, node_1());
    assert_eq!(ready(&effects), Some(False));
}

#[test]
fn a_deleted_connector_leaves_no_secret_behind() {
    let mut model = model();
    let key = Key::new("team", "login");
    assert!(model.secret_version(&key).is_some());
    assert_eq!(model.remove_connector(&api(), NOW).nodes, node_1());
    assert!(!model.wants_secret(&key));
    assert_eq!(model.secret_version(&key), None);
    assert!(model.evaluate("node-1").0.full(1).connectors.is_empty());
}

#[test]
fn a_connector_that_names_another_secret_lets_go_of_the_first() {
    let mut model = model();
    let mut spec = sound();
    spec["auth"]["secretRef"]["name"] = json!("other");
    let effects = model.upsert_connector(manifest("api", &spec), NOW);
    assert_eq!(ready(&effects), Some(False));
    assert!(model.wants_secret(&Key::new("team", "other")));
    assert_eq!(model.secret_version(&Key::new("team", "login")), None);
}

#[test]
fn a_secret_that_nobody_names_is_not_kept() {
    let mut model = model();
    let key = Key::new("team", "unrelated");
    assert!(!model.wants_secret(&key));
    let effects = model.upsert_secret(key.clone(), held("hunter2", "1"), NOW);
    assert_eq!(effects, Effects::default());
    assert_eq!(model.secret_version(&key), None);
}

#[test]
fn a_secret_of_the_same_name_elsewhere_is_another_one() {
    let mut model = model();
    let key = Key::new("other", "login");
    assert!(!model.wants_secret(&key));
    assert_eq!(model.remove_secret(&key, NOW), Effects::default());
}

#[test]
fn grants_follow_the_reviews() {
    let mut model = model();
    let connectors = |model: &mut Model| model.evaluate("node-1").0.full(1).connectors.len();
    assert_eq!(connectors(&mut model), 1);
    assert_eq!(model.answer(review(), false).nodes, node_1());
    assert_eq!(connectors(&mut model), 0);
    model.answer(review(), true);
    assert_eq!(connectors(&mut model), 1);
    assert_eq!(model.answer(review(), true), Effects::default());
}

#[test]
fn a_yes_to_all_forgets_the_answers_for_single_connectors() {
    let mut model = model();
    let one = Review {
        connector: Some("api".to_owned()),
        ..review()
    };
    model.answer(review(), false);
    model.answer(one.clone(), true);
    model.answer(review(), true);
    assert!(model.reviews().eq([&review()]));
    // It may be wrong by now, so it is asked again.
    model.answer(review(), false);
    let (_, open) = model.evaluate("node-1");
    assert!(open.into_iter().eq([one]));
}

#[test]
fn answers_that_nobody_needs_are_dropped() {
    let mut model = model();
    let one = |name: &str| Review {
        connector: Some(name.to_owned()),
        ..review()
    };
    model.answer(review(), false);
    model.answer(one("api"), true);
    model.answer(one("gone"), true);
    model.drop_unused_reviews();
    assert!(model.reviews().eq([&review(), &one("api")]));
    model.remove_pod("node-1", "1");
    model.drop_unused_reviews();
    assert_eq!(model.reviews().count(), 0);
}

#[test]
fn while_a_secret_is_awaited_nothing_is_said_and_nothing_usable() {
    let key = Key::new("team", "login");
    let mut model = model();
    let status = model.connectors[&api()].status.clone();
    // As after a restart: the Connector comes with the status that it has.
    let mut shown = manifest("api", &sound());
    shown.status = status;
    for replaced in [true, false] {
        if !replaced {
            model.remove_connector(&api(), NOW);
        }
        model.await_secret(&key, "later");
        let effects = model.upsert_connector(shown.clone(), "later");
        assert!(effects.statuses.is_empty());
        assert_eq!(model.secret_version(&key), None);
        let update = model.evaluate("node-1").0.full(1);
        assert!(!update.connectors[0].usable && update.connectors[0].credential.is_none());
        let effects = model.upsert_secret(key.clone(), held("hunter2", "2"), "later");
        assert!(effects.statuses.is_empty() && effects.nodes == node_1());
        assert!(model.evaluate("node-1").0.full(1).connectors[0].usable);
    }
}

#[test]
fn an_awaited_secret_that_goes_is_not_found() {
    let key = Key::new("team", "login");
    let mut model = model();
    assert_eq!(ready(&model.await_secret(&key, NOW)), None);
    assert_eq!(ready(&model.remove_secret(&key, NOW)), Some(False));
}

#[test]
fn a_node_without_pods_needs_nothing() {
    let mut model = model();
    model.remove_node("node-1");
    for node in ["node-1", "node-3"] {
        let (state, open) = model.evaluate(node);
        assert!(open.is_empty());
        assert!(state.full(1).workloads.is_empty());
    }
}

#[test]
fn a_certificate_expires_without_any_change() {
    const BEFORE: &str = "1970-01-01T00:00:59Z";
    const DURING: &str = "1970-01-01T00:02:00Z";
    const AFTER: &str = "1970-01-01T00:03:01Z";
    let said = |effects: &Effects| {
        let status = effects.statuses.get(&api())?;
        let secret = status
            .conditions
            .iter()
            .find(|it| it.type_ == "SecretReady");
        let secret = secret.expect("it is always there");
        let message = secret.message.clone().unwrap_or_default();
        Some((ready(effects)?, secret.status, message))
    };
    let mut model = Model::new().expect("randomness");
    model.upsert_pod("node-1", pod("1", "team"));
    model.upsert_class(mutual(), BEFORE);
    model.upsert_connector(manifest("api", &identified()), BEFORE);
    let secret = HeldSecret {
        data: pair(60..180),
        ..held("", "1")
    };
    let effects = model.upsert_secret(Key::new("team", "pair"), secret, BEFORE);
    let (ready, secret, message) = said(&effects).expect("a status");
    assert_eq!((ready, secret), (False, False));
    assert!(
        message.contains("valid from 1970-01-01T00:01:00Z"),
        "{message}"
    );
    // Nodes know better when it begins, and have it by then.
    assert_eq!(effects.nodes, node_1());

    assert_eq!(model.look_at_clock(BEFORE), Effects::default());
    let effects = model.look_at_clock(DURING);
    assert_eq!(said(&effects), Some((True, True, String::new())));
    assert!(effects.nodes.is_empty(), "{effects:?}");
    let (ready, secret, message) = said(&model.look_at_clock(AFTER)).expect("a status");
    assert_eq!((ready, secret), (False, False));
    assert!(
        message.contains("has expired at 1970-01-01T00:03:00Z"),
        "{message}"
    );

    model.remove_connector(&api(), AFTER);
    assert_eq!(model.look_at_clock(DURING), Effects::default());
}

#[test]
fn replicas_whose_clocks_differ_agree_on_a_certificate() {
    let of = |valid: std::ops::Range<i64>| HeldSecret {
        data: pair(valid),
        ..held("", "1")
    };
    // What a replica with this clock writes when the object has this status.
    let writes = |secret: HeldSecret, status: Option<&ConnectorStatus>, now: &str| {
        let mut model = Model::new().expect("randomness");
        model.upsert_class(mutual(), now);
        let key = Key::new("team", "pair");
        model.upsert_connector(manifest("api", &identified()), now);
        model.upsert_secret(key, secret, now);
        let mut object = manifest("api", &identified());
        object.status = status.cloned();
        let mut effects = model.upsert_connector(object, now);
        effects.statuses.remove(&api())
    };
    let is_ready = |status: &ConnectorStatus| {
        let mut conditions = status.conditions.iter();
        let ready = conditions.find(|it| it.type_ == "Ready");
        ready.expect("it is always there").status == True
    };
    // From one o'clock to ten o'clock.
    let secret = || of(60 * 60..10 * 60 * 60);
    for (ahead, behind, far_behind, expected) in [
        ("01:00:01", "00:58:00", "00:30:00", true),
        ("10:00:01", "09:58:00", "09:30:00", false),
    ] {
        let at = |time: &str| format!("1970-01-01T{time}Z");
        let first = writes(secret(), None, &at(ahead)).expect("a status");
        assert_eq!(is_ready(&first), expected, "{ahead}");
        let second = writes(secret(), Some(&first), &at(behind));
        assert_eq!(second, None, "{behind}");
        // One of the two clocks is wrong, and somebody has to look.
        let other = writes(secret(), Some(&first), &at(far_behind)).expect("a status");
        assert_eq!(is_ready(&other), !expected, "{far_behind}");
        // Whoever is ahead is heard at once.
        let again = writes(secret(), Some(&other), &at(ahead));
        assert_eq!(again.as_ref().map(is_ready), Some(expected), "{ahead}");
    }
}
