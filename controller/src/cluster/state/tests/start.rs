//! What nodes are told first, and when.

use super::*;

#[test]
fn nodes_are_told_once_all_is_read_and_asked() {
    let nodes = Nodes::default();
    let mut state = listed();
    state.publish(&nodes);
    let mut calls = Vec::new();
    while let Some(call) = state.next_call() {
        calls.push(call);
    }
    assert_eq!(calls.len(), 2, "a Secret and a review: {calls:?}");
    for call in calls {
        assert!(!nodes.is_complete());
        answer(&mut state, call);
        state.publish(&nodes);
    }
    assert!(nodes.is_complete() && usable(&nodes));
}

#[test]
fn a_review_that_fails_again_and_again_holds_nobody_up_for_ever() {
    let nodes = Nodes::default();
    let mut state = listed();
    state.publish(&nodes);
    let key = fetch(&mut state);
    answer(&mut state, Call::Fetch(key));
    for count in 1..=PATIENCE {
        state.publish(&nodes);
        assert!(!nodes.is_complete());
        let mut asked = false;
        while let Some(call) = state.next_call() {
            if let Call::Ask(review) = call {
                asked = true;
                let failed = Answer::Asked(review, Err(unavailable()));
                let retry = state.answer(failed, NOW).expect("again");
                assert_eq!(retry.failures, count);
            } else {
                answer(&mut state, call);
            }
        }
        assert!(asked);
        if count < PATIENCE {
            state.retry(Job::Ask(review()));
        }
    }
    state.publish(&nodes);
    assert!(nodes.is_complete() && !usable(&nodes));
    assert_eq!(state.waiting_for(&review()), ["team/pod"]);
    state.answer(Answer::Asked(review(), Ok(true)), NOW);
    assert!(state.waiting_for(&review()).is_empty());
}

#[test]
fn roles_and_secrets_that_change_all_the_time_hold_nobody_up() {
    let nodes = Nodes::default();
    let mut state = listed();
    state.publish(&nodes);
    while let Some(call) = state.next_call() {
        answer(&mut state, call);
        // Before anything is told, what is known is called into question again.
        state.change(role(Some("team"), "1"), NOW);
        let change = Change::Secret(Event::Apply((secret(), version("u", "2"))));
        state.change(change, NOW);
        if state.model.has_answer(&review()) && state.model.secret_version(&secret()).is_some() {
            break;
        }
    }
    let open = state.queue.unsettled().count();
    assert!(open >= 2, "both are looked at again");
    state.publish(&nodes);
    assert!(nodes.is_complete() && usable(&nodes));
}

#[test]
fn one_failed_read_takes_nothing_away() {
    let nodes = Nodes::default();
    let mut state = listed();
    state.publish(&nodes);
    let key = fetch(&mut state);
    let failed = Answer::Fetched(key, Err(unavailable()));
    let retry = state.answer(failed, NOW).expect("again");
    while let Some(call) = state.next_call() {
        answer(&mut state, call);
    }
    state.publish(&nodes);
    assert!(!nodes.is_complete(), "it would be told as not usable");
    state.retry(retry.job);
    let key = fetch(&mut state);
    answer(&mut state, Call::Fetch(key));
    state.publish(&nodes);
    assert!(nodes.is_complete() && usable(&nodes));
}

#[test]
fn a_secret_that_may_not_be_read_holds_nobody_up() {
    let nodes = Nodes::default();
    let mut state = listed();
    state.publish(&nodes);
    let key = fetch(&mut state);
    let denied = Failure::Forbidden("get secrets".to_owned());
    assert!(
        state
            .answer(Answer::Fetched(key, Err(denied)), NOW)
            .is_some()
    );
    while let Some(call) = state.next_call() {
        answer(&mut state, call);
    }
    state.publish(&nodes);
    assert!(nodes.is_complete() && !usable(&nodes));
}
