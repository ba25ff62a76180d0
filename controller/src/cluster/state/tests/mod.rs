mod start;
mod statuses;

use connectors::condition::ConditionStatus::{self, False, True};

use super::super::failure::Failure;
use super::*;
use crate::model::HeldSecret;
use crate::testing::{basic, login, manifest, sound};

const NOW: &str = "2026-01-01T00:00:00Z";

fn api() -> Key {
    Key::new("team", "api")
}

fn secret() -> Key {
    Key::new("team", "login")
}

fn version(uid: &str, resource_version: &str) -> Version {
    Version {
        uid: uid.to_owned(),
        resource_version: resource_version.to_owned(),
    }
}

fn held(uid: &str, resource_version: &str) -> HeldSecret {
    HeldSecret {
        data: login("hunter2"),
        uid: uid.to_owned(),
        resource_version: resource_version.to_owned(),
    }
}

fn pod() -> Pod {
    Pod {
        uid: "pod".to_owned(),
        namespace: "team".to_owned(),
        name: "pod".to_owned(),
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

fn role(namespace: Option<&str>, version: &str) -> Change {
    let key = (namespace.map(str::to_owned), "users".to_owned());
    Change::Role(
        RoleKind::RoleBinding,
        Event::Apply((key, version.to_owned())),
    )
}

fn unavailable() -> Failure {
    Failure::Refused {
        code: 503,
        message: String::new(),
    }
}

/// A class, the Secret `login`, the Connector `api` that names it, a pod; all was listed,
/// nothing was read or asked yet.
fn listed() -> State {
    let mut state = State::new().expect("randomness");
    let pod = Some(("node".to_owned(), pod()));
    for change in [
        Change::Class(Event::Init),
        Change::Class(Event::InitApply(("basic".to_owned(), Some(basic())))),
        Change::Class(Event::InitDone),
        Change::Secret(Event::Init),
        Change::Secret(Event::InitApply((secret(), version("u", "1")))),
        Change::Secret(Event::InitDone),
        Change::Pod(Event::Init),
        Change::Pod(Event::InitApply(("pod".to_owned(), pod))),
        Change::Pod(Event::InitDone),
        Change::Connector(Event::Init),
        Change::Connector(Event::InitApply((api(), seen(object("api"))))),
        Change::Connector(Event::InitDone),
    ] {
        assert!(state.next_call().is_none(), "not everything is listed");
        state.change(change, NOW);
    }
    for kind in RoleKind::ALL {
        assert!(state.next_call().is_none(), "not everything is listed");
        state.change(Change::Role(kind, Event::Init), NOW);
        state.change(Change::Role(kind, Event::InitDone), NOW);
    }
    state
}

fn object(name: &str) -> Box<api::Connector> {
    Box::new(manifest(name, &sound()))
}

fn seen(object: Box<api::Connector>) -> Seen {
    Seen {
        object,
        fault: None,
    }
}

/// The Connector `api` in another state.
fn at_version(resource_version: &str) -> Box<api::Connector> {
    let mut object = object("api");
    object.metadata.resource_version = Some(resource_version.to_owned());
    object
}

/// The Connector `api` after its status was written.
fn next() -> ObjectVersion {
    ObjectVersion {
        uid: "uid-of-api".to_owned(),
        resource_version: "written".to_owned(),
    }
}

/// All is read, asked, written and told.
fn calm(nodes: &Nodes) -> State {
    let mut state = listed();
    state.publish(nodes);
    while let Some(call) = state.next_call() {
        answer(&mut state, call);
        state.publish(nodes);
    }
    assert!(nodes.is_complete());
    state
}

/// Answers a request as if all were well.
fn answer(state: &mut State, call: Call) {
    let answer = match call {
        Call::Fetch(key) => {
            let version = state.secrets.get(&key).expect("it exists").clone();
            let secret = held(&version.uid, &version.resource_version);
            Answer::Fetched(key, Ok(Some(secret)))
        }
        Call::Ask(review) => Answer::Asked(review, Ok(true)),
        Call::Write(key, ..) => Answer::Written(key, Ok(next())),
    };
    assert_eq!(state.answer(answer, NOW), None);
}

fn fetch(state: &mut State) -> Key {
    match state.next_call() {
        Some(Call::Fetch(key)) => key,
        other => panic!("not a Secret: {other:?}"),
    }
}

/// The next request is to write the status of `api`; returns `status` of `Ready`.
fn write(state: &mut State) -> ConditionStatus {
    match state.next_call() {
        Some(Call::Write(key, version, status)) => {
            assert_eq!((key, &*version.uid), (api(), "uid-of-api"));
            let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
            ready.expect("it is always there").status
        }
        other => panic!("not a status: {other:?}"),
    }
}

fn usable(nodes: &Nodes) -> bool {
    let known = nodes.subscribe("node").borrow().clone();
    let update = known.expect("it was told").full(1);
    update.connectors.iter().any(|it| it.usable)
}

#[test]
fn a_pod_that_waits_goes_before_what_is_asked_again() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(role(None, "2"), NOW);
    let mut waiting = pod();
    (waiting.uid, waiting.service_account) = ("new".to_owned(), "late".to_owned());
    let event = Event::Apply(("new".to_owned(), Some(("node".to_owned(), waiting))));
    state.change(Change::Pod(event), NOW);
    let class = Change::Class(Event::Delete(("basic".to_owned(), None)));
    state.change(class, NOW);
    state.publish(&nodes);
    let Some(Call::Ask(first)) = state.next_call() else {
        panic!("a review");
    };
    assert_eq!(first.service_account, "late");
    assert_eq!(write(&mut state), False);
    assert!(matches!(state.next_call(), Some(Call::Ask(it)) if it == review()));
}

#[test]
fn a_secret_made_anew_while_the_old_one_is_not_found_is_read() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    let change = Change::Secret(Event::Apply((secret(), version("u", "2"))));
    state.change(change, NOW);
    let key = fetch(&mut state);
    let change = Change::Secret(Event::Apply((secret(), version("other", "3"))));
    state.change(change, NOW);
    state.answer(Answer::Fetched(key, Ok(None)), NOW);
    assert!(state.writes.is_empty(), "it is not said to be missing");
    let key = fetch(&mut state);
    answer(&mut state, Call::Fetch(key));
    state.publish(&nodes);
    assert!(usable(&nodes));
}

#[test]
fn a_secret_that_changes_while_it_is_read_is_read_again() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(
        Change::Secret(Event::Apply((secret(), version("u", "2")))),
        NOW,
    );
    let key = fetch(&mut state);
    state.change(
        Change::Secret(Event::Apply((secret(), version("u", "3")))),
        NOW,
    );
    assert!(state.next_call().is_none(), "never twice at the same time");
    state.answer(Answer::Fetched(key, Ok(Some(held("u", "2")))), NOW);
    let key = fetch(&mut state);
    state.answer(Answer::Fetched(key, Ok(Some(held("u", "3")))), NOW);
    assert!(state.next_call().is_none());
}

#[test]
fn an_answer_that_is_ahead_of_the_watch_is_not_read_again() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(
        Change::Secret(Event::Apply((secret(), version("u", "2")))),
        NOW,
    );
    let key = fetch(&mut state);
    state.answer(Answer::Fetched(key, Ok(Some(held("u", "3")))), NOW);
    assert!(state.next_call().is_none());
    state.change(
        Change::Secret(Event::Apply((secret(), version("u", "3")))),
        NOW,
    );
    assert!(state.next_call().is_none());
}

#[test]
fn a_secret_that_went_while_it_was_read_is_not_used() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(
        Change::Secret(Event::Apply((secret(), version("u", "2")))),
        NOW,
    );
    let key = fetch(&mut state);
    state.change(
        Change::Secret(Event::Delete((secret(), version("u", "2")))),
        NOW,
    );
    state.answer(Answer::Fetched(key, Ok(Some(held("u", "2")))), NOW);
    state.publish(&nodes);
    assert!(!usable(&nodes));
    assert_eq!(write(&mut state), False);
}

#[test]
fn another_secret_of_the_same_name_withdraws_the_first_at_once() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(Change::Secret(Event::Init), NOW);
    state.change(
        Change::Secret(Event::InitApply((secret(), version("other", "9")))),
        NOW,
    );
    state.change(Change::Secret(Event::InitDone), NOW);
    state.publish(&nodes);
    assert!(!usable(&nodes));
    let key = fetch(&mut state);
    answer(&mut state, Call::Fetch(key));
    state.publish(&nodes);
    assert!(usable(&nodes));
    assert!(state.next_call().is_none(), "its status says so already");
}

#[test]
fn a_list_that_shows_nothing_new_asks_nothing() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    let mut shown = object("api");
    shown.status = Some(status_of(&mut calm_until_written()));
    for change in [
        Change::Secret(Event::Init),
        Change::Secret(Event::InitApply((secret(), version("u", "1")))),
        Change::Secret(Event::InitDone),
        Change::Connector(Event::Init),
        Change::Connector(Event::InitApply((api(), seen(shown)))),
        Change::Connector(Event::InitDone),
    ] {
        state.change(change, NOW);
    }
    state.publish(&nodes);
    assert!(state.next_call().is_none());
}

/// Everything is read and asked; the status is to be written.
fn calm_until_written() -> State {
    let mut state = listed();
    let key = fetch(&mut state);
    answer(&mut state, Call::Fetch(key));
    state
}

fn status_of(state: &mut State) -> ConnectorStatus {
    match state.next_call() {
        Some(Call::Write(_, _, status)) => *status,
        other => panic!("not a status: {other:?}"),
    }
}

#[test]
fn changed_roles_are_asked_about_now_and_later_in_their_namespace() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    let changed = state.take_changed_roles();
    assert!(changed.is_empty(), "the first list changes nothing");
    state.change(role(Some("other"), "1"), NOW);
    assert!(state.next_call().is_none());
    state.take_changed_roles();
    for namespace in [Some("team"), None] {
        state.change(role(namespace, "2"), NOW);
        let mut changed = state.take_changed_roles();
        assert_eq!(changed.len(), 1);
        state.change(role(namespace, "2"), NOW);
        assert!(state.take_changed_roles().is_empty(), "nothing is new");
        for _ in ["now", "later"] {
            let Some(Call::Ask(asked)) = state.next_call() else {
                panic!("a review");
            };
            assert_eq!(asked, review());
            state.answer(Answer::Asked(asked, Ok(true)), NOW);
            assert!(state.next_call().is_none());
            state.recheck(std::mem::take(&mut changed));
        }
        assert!(state.next_call().is_none());
    }
}

#[test]
fn an_answer_holds_while_it_is_asked_for_again_in_vain() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(role(Some("team"), "1"), NOW);
    assert!(matches!(state.next_call(), Some(Call::Ask(_))));
    let failed = Answer::Asked(review(), Err(unavailable()));
    let retry = state.answer(failed, NOW).expect("again");
    state.publish(&nodes);
    assert!(usable(&nodes));
    state.retry(retry.job);
    assert!(matches!(state.next_call(), Some(Call::Ask(_))));
    state.answer(Answer::Asked(review(), Ok(false)), NOW);
    state.publish(&nodes);
    assert!(!usable(&nodes));
}

#[test]
fn a_review_for_pods_that_are_gone_is_given_up() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(role(Some("team"), "1"), NOW);
    assert!(matches!(state.next_call(), Some(Call::Ask(_))));
    state.change(Change::Pod(Event::Delete(("pod".to_owned(), None))), NOW);
    let failed = Answer::Asked(review(), Err(unavailable()));
    assert_eq!(state.answer(failed, NOW), None);
}

#[test]
fn a_node_that_nobody_needs_is_forgotten() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    state.change(Change::Pod(Event::Delete(("pod".to_owned(), None))), NOW);
    state.publish(&nodes);
    let agent = nodes.subscribe("node");
    state.refresh(&nodes, NOW);
    assert_eq!(state.model.nodes().count(), 1, "somebody listens");
    drop(agent);
    state.refresh(&nodes, NOW);
    assert_eq!(state.model.nodes().count(), 0);
    assert!(state.next_call().is_none(), "nothing is asked for nobody");
}
