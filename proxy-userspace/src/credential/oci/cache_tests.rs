use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::error::{Cause, Party};
use super::super::fake::Hand;
use super::super::flight::Clock;
use super::*;

fn token(clock: &Clock, life: u64) -> Token {
    Token {
        value: "opaque".into(),
        asked: clock(),
        life: Duration::from_secs(life),
    }
}

fn age_after(life: u64, seconds: u64) -> Age {
    let clock = Hand::new().clock();
    token(&clock, life).age(clock() + Duration::from_secs(seconds))
}

#[test]
fn a_short_token_is_replaced_when_a_tenth_is_left_and_not_at_half_of_its_life() {
    assert_eq!(age_after(60, 31), Age::Fresh);
    assert_eq!(age_after(60, 53), Age::Fresh);
    assert_eq!(age_after(60, 54), Age::Stale);
    assert_eq!(age_after(60, 58), Age::Expired);
}

#[test]
fn a_longer_token_is_replaced_at_thirty_seconds_or_a_tenth() {
    assert_eq!(
        (age_after(200, 169), age_after(200, 170)),
        (Age::Fresh, Age::Stale)
    );
    assert_eq!(
        (age_after(3600, 3239), age_after(3600, 3240)),
        (Age::Fresh, Age::Stale)
    );
    assert_eq!(age_after(3600, 3600), Age::Expired);
}

#[test]
fn the_order_of_scopes_does_not_make_another_key() {
    let realm = Url::parse("https://auth.example.com/token").expect("a URL");
    let key = |scopes: &[&str], service| {
        let scopes: Vec<String> = scopes.iter().map(|&scope| scope.into()).collect();
        Key::new(&realm, service, &scopes)
    };
    assert_eq!(key(&["b", "a", "a"], None), key(&["a", "b"], None));
    assert_ne!(key(&["a"], None), key(&["a", "b"], None));
    assert_ne!(key(&["a"], None), key(&["a"], Some("s")));
}

#[test]
fn the_cache_is_bounded() {
    let realm = Url::parse("https://auth.example.com/token").expect("a URL");
    let cache = TokenCache::new(8);
    for n in 0..100 {
        cache.flight(Key::new(&realm, None, &[format!("repository:r{n}:pull")]));
    }
    assert_eq!(cache.flights.lock().expect("not poisoned").len(), 8);
}

#[test]
fn debug_of_a_token_does_not_show_it() {
    let shown = format!("{:?}", token(&Hand::new().clock(), 60));
    assert!(!shown.contains("opaque"), "{shown}");
}

fn unavailable() -> Cause {
    Cause::NoChallenge
}

#[tokio::test]
async fn a_dropped_leader_lets_the_next_one_lead() {
    let (flight, clock) = (Arc::new(Flight::default()), Hand::new().clock());
    let leader = {
        let (flight, clock) = (Arc::clone(&flight), Arc::clone(&clock));
        tokio::spawn(async move { flight.get(&clock, std::future::pending()).await.map(drop) })
    };
    tokio::task::yield_now().await;
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let (flight, clock) = (Arc::clone(&flight), Arc::clone(&clock));
            tokio::spawn(async move {
                flight
                    .get(&clock, async { Ok(token(&clock, 60)) })
                    .await
                    .map(drop)
            })
        })
        .collect();
    tokio::task::yield_now().await;
    leader.abort();
    for waiter in waiters {
        let waiter = tokio::time::timeout(Duration::from_secs(5), waiter).await;
        waiter
            .expect("does not hang")
            .expect("does not panic")
            .expect("a token");
    }
}

#[tokio::test]
async fn those_who_waited_share_a_failure_and_the_next_one_tries_again() {
    let (flight, clock) = (Flight::<Token>::default(), Hand::new().clock());
    let attempts = AtomicUsize::new(0);
    let attempt = || {
        flight.get(&clock, async {
            attempts.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            Err(unavailable())
        })
    };
    let (a, b, c) = tokio::join!(attempt(), attempt(), attempt());
    assert!(a.is_err() && b.is_err() && c.is_err());
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    assert!(attempt().await.is_err());
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_rejected_credential_is_held_for_a_while_to_spare_the_account() {
    let hand = Hand::new();
    let (flight, clock) = (Flight::<Token>::default(), hand.clock());
    let rejected = async {
        Err(Cause::CredentialRejected {
            by: Party::Registry,
            status: http::StatusCode::UNAUTHORIZED,
        })
    };
    assert!(flight.get(&clock, rejected).await.is_err());
    assert!(
        flight
            .get(&clock, async { panic!("not to be tried") })
            .await
            .is_err()
    );
    hand.advance(10);
    assert!(
        flight
            .get(&clock, async { Ok(token(&clock, 60)) })
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_token_service_that_fails_costs_nothing_while_the_old_token_lives() {
    let hand = Hand::new();
    let (flight, clock) = (Flight::default(), hand.clock());
    let first = flight.put(token(&clock, 60));
    hand.advance(55);
    let second = flight
        .get(&clock, async { Err(unavailable()) })
        .await
        .expect("the old one");
    assert!(Arc::ptr_eq(&first, &second));
    hand.advance(5);
    assert!(
        flight
            .get(&clock, async { Err(unavailable()) })
            .await
            .is_err()
    );
}

#[tokio::test]
async fn while_a_stale_token_is_replaced_nobody_else_waits() {
    let hand = Hand::new();
    let (flight, clock) = (Flight::default(), hand.clock());
    let first = flight.put(token(&clock, 60));
    hand.advance(55);
    let mut leader = std::pin::pin!(flight.get(&clock, std::future::pending()));
    let poll = tokio::time::timeout(Duration::from_millis(1), leader.as_mut()).await;
    assert!(poll.is_err(), "the leader waits for the new one");
    let other = flight
        .get(&clock, async { panic!("one is enough") })
        .await
        .expect("the old one");
    assert!(Arc::ptr_eq(&first, &other));
}

#[test]
fn forgetting_spares_a_token_that_somebody_has_replaced() {
    let (flight, clock) = (Flight::default(), Hand::new().clock());
    let first = flight.put(token(&clock, 60));
    let second = flight.put(token(&clock, 60));
    flight.forget(&first);
    assert!(flight.peek().is_some());
    flight.forget(&second);
    assert!(flight.peek().is_none());
}
