//! Statuses: what is written when, and to which state of an object.

use super::*;

#[test]
fn a_newer_status_follows_the_one_under_way() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    state.change(
        Change::Class(Event::Delete(("basic".to_owned(), None))),
        NOW,
    );
    assert!(state.next_call().is_none(), "one at a time");
    state.answer(Answer::Written(api(), Ok(next())), NOW);
    assert_eq!(write(&mut state), False);
    state.answer(Answer::Written(api(), Ok(next())), NOW);
    assert!(state.next_call().is_none());
}

#[test]
fn a_status_that_could_not_be_written_is_written_later() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    let failed = Answer::Written(api(), Err(Failure::Conflict));
    let retry = state.answer(failed, NOW).expect("again");
    assert!(state.next_call().is_none(), "not at once");
    // The watch shows the object as it was before: nothing new to say.
    state.change(
        Change::Connector(Event::Apply((api(), seen(object("api"))))),
        "later",
    );
    assert!(state.next_call().is_none(), "not at once");
    state.retry(retry.job);
    assert_eq!(write(&mut state), True);
}

#[test]
fn after_a_conflict_the_state_that_the_watch_shows_is_written_to() {
    for shown_before_the_answer in [true, false] {
        let mut state = calm_until_written();
        assert_eq!(write(&mut state), True);
        let event = Change::Connector(Event::Apply((api(), seen(at_version("2")))));
        let conflict = Answer::Written(api(), Err(Failure::Conflict));
        if shown_before_the_answer {
            state.change(event, NOW);
            assert_eq!(state.answer(conflict, NOW), None);
        } else {
            assert!(state.answer(conflict, NOW).is_some());
            assert!(
                state.next_call().is_none(),
                "the same would be refused again"
            );
            state.change(event, NOW);
        }
        let Some(Call::Write(_, version, _)) = state.next_call() else {
            panic!("a status");
        };
        assert_eq!(version.resource_version, "2");
    }
}

#[test]
fn the_next_status_is_written_to_what_the_last_one_made() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    state.answer(Answer::Written(api(), Ok(next())), NOW);
    state.change(
        Change::Class(Event::Delete(("basic".to_owned(), None))),
        NOW,
    );
    let Some(Call::Write(_, version, _)) = state.next_call() else {
        panic!("a status");
    };
    assert_eq!(version, next());
}

#[test]
fn a_status_that_is_refused_is_written_again_when_the_object_changes() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    let refused = Failure::Refused {
        code: 422,
        message: String::new(),
    };
    let failed = state.answer(Answer::Written(api(), Err(refused)), NOW);
    assert_eq!(failed.expect("it is told").after, None);
    let unchanged = Change::Connector(Event::Apply((api(), seen(object("api")))));
    state.change(unchanged, NOW);
    assert!(state.next_call().is_none());
    let changed = Change::Connector(Event::Apply((api(), seen(at_version("2")))));
    state.change(changed, NOW);
    assert_eq!(write(&mut state), True);
}

#[test]
fn two_who_do_not_agree_on_a_status_take_their_time() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    state.answer(Answer::Written(api(), Ok(next())), NOW);
    assert_eq!(state.take_written(), [api()]);
    // Somebody else has written something else.
    let undone = Change::Connector(Event::Apply((api(), seen(at_version("3")))));
    state.change(undone, NOW);
    assert!(state.next_call().is_none());
    // What is new is written at once.
    state.change(
        Change::Class(Event::Delete(("basic".to_owned(), None))),
        NOW,
    );
    assert_eq!(write(&mut state), False);
    state.answer(Answer::Written(api(), Ok(next())), NOW);
    let undone = Change::Connector(Event::Apply((api(), seen(at_version("5")))));
    state.change(undone, NOW);
    assert!(state.next_call().is_none());
    state.rested(api());
    assert_eq!(write(&mut state), False);
}

#[test]
fn a_connector_that_cannot_be_read_any_more_is_refused() {
    let nodes = Nodes::default();
    let mut state = calm(&nodes);
    let mut object = at_version("2");
    object.spec = api::ConnectorSpec::default();
    let unreadable = Seen {
        object,
        fault: Some("spec.novelty: unknown field `novelty`".to_owned()),
    };
    state.change(Change::Connector(Event::Apply((api(), unreadable))), NOW);
    state.publish(&nodes);
    let known = nodes.subscribe("node").borrow().clone();
    let update = known.expect("it was told").full(1);
    assert_eq!(update.connectors.len(), 1, "it is not dropped");
    assert!(!update.connectors[0].usable && update.connectors[0].credential.is_none());
    let status = status_of(&mut state);
    let [ready] = &status.conditions[..] else {
        panic!("one condition");
    };
    assert_eq!(
        (ready.status, ready.reason.as_deref()),
        (False, Some("InvalidSpec"))
    );
    let message = ready.message.as_deref().expect("a message");
    assert!(message.contains("spec.novelty"), "{message}");
    // It can be read again.
    state.change(
        Change::Connector(Event::Apply((api(), seen(at_version("3"))))),
        NOW,
    );
    state.publish(&nodes);
    assert!(usable(&nodes));
}

#[test]
fn the_status_of_an_object_that_is_gone_is_not_written() {
    for failure in [Failure::NotFound, unavailable()] {
        let mut state = calm_until_written();
        assert_eq!(write(&mut state), True);
        state.change(
            Change::Connector(Event::Delete((api(), seen(object("api"))))),
            NOW,
        );
        let failed = Answer::Written(api(), Err(failure));
        assert_eq!(state.answer(failed, NOW), None);
        assert!(state.next_call().is_none());
    }
}

#[test]
fn a_successor_of_the_same_name_gets_its_own_status() {
    let mut state = calm_until_written();
    assert_eq!(write(&mut state), True);
    let mut successor = object("api");
    successor.metadata.uid = Some("another".to_owned());
    state.change(
        Change::Connector(Event::Apply((api(), seen(successor)))),
        NOW,
    );
    state.answer(Answer::Written(api(), Err(Failure::Conflict)), NOW);
    let retried = state.next_call();
    state.retry(Job::Write(api()));
    let next = retried.or_else(|| state.next_call());
    let Some(Call::Write(_, version, _)) = next else {
        panic!("a status");
    };
    assert_eq!(version.uid, "another");
}
