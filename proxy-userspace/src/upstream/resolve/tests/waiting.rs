//! Who waits for whom, and for how long.

use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn a_family_that_nobody_answers_for_does_not_cost_the_other() {
    let world = World::new().await;
    world.write(
        "resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n",
    );
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = RData::AAAA(AAAA(six));
    world.set(60, vec![v4(1), v6.clone()]);
    let both = world.resolve(HOST).await;
    assert_eq!(both, Ok(vec![ip(1), six.into()]));

    // The other family's last addresses stay.
    for (silent, expected) in [
        (RecordType::AAAA, vec![ip(2), six.into()]),
        (RecordType::A, vec![ip(2), six.into()]),
    ] {
        world.expire(HOST);
        world.set(60, vec![v4(2), v6.clone()]);
        with(&world.zone, |zone| zone.silent_about = Some(silent));
        let start = Instant::now();
        let until = world.resolver.refresh(HOST).await.expect("an answer");
        assert!(start.elapsed() < limits::RESOLVE_STALE, "{silent}");
        assert!(until <= Instant::now() + limits::RESOLVE_AGAIN, "{silent}");
        assert_eq!(world.resolve(HOST).await, Ok(expected), "{silent}");
    }
}

#[tokio::test]
async fn who_has_time_does_not_take_over_a_failure_in_haste() {
    let world = World::new().await;
    world.set(60, vec![v4(1)]);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    world.expire(HOST);
    with(&world.zone, |zone| zone.silent = true);
    let before = asked(&world.zone);
    let (dialled, refreshed) = tokio::join!(world.resolve(HOST), async {
        sleep(Duration::from_millis(200)).await;
        world.resolver.refresh(HOST).await
    });
    assert_eq!(dialled, Ok(vec![ip(1)]));
    assert_eq!(refreshed, Err(ResolveError::Silent("127.0.0.1".into())));
    // Each of them asked for both families.
    assert_eq!(asked(&world.zone) - before, 4);
}
