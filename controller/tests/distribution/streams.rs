//! What an agent is told, and when.

use std::time::{Duration, SystemTime};

use postern_controller::distribution::AUDIENCE;
use postern_controller::distribution::limits::STREAMS_OF_A_NODE;
use postern_controller::model::Key;
use proxy_common::distribution::agent_message::Kind;
use proxy_common::distribution::{Acknowledge, AgentMessage};
use tonic::Code;

use crate::logs;
use crate::support::{PASSWORD, Stream, TOKEN, World, agent, jwt, password, soon};

#[tokio::test]
async fn a_stream_begins_with_the_whole_state_and_goes_on_with_changes() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    let full = stream.take().await;
    assert!(full.full);
    assert_eq!((full.version, full.policies.len()), (1, 1));
    assert_eq!(full.workloads[0].pod_uid, "uid of the pod");
    assert_eq!(password(&full), Some(PASSWORD));

    world.rotate("another password", "2");
    let rotation = stream.take().await;
    assert!(!rotation.full && rotation.workloads.is_empty());
    assert_eq!(
        (rotation.version, password(&rotation)),
        (2, Some("another password"))
    );

    world.change(|model| {
        model.remove_secret(&Key::new("team", "login"), "2026-01-01T00:00:00Z");
    });
    let unusable = stream.take().await;
    assert_eq!((unusable.version, password(&unusable)), (3, None));
    assert!(!unusable.connectors[0].usable);

    world.change(|model| {
        model.remove_connector(&Key::new("team", "api"), "2026-01-01T00:00:00Z");
    });
    let removal = stream.take().await;
    assert_eq!(removal.removed_connectors.len(), 1);
    assert_eq!((removal.version, removal.workloads[0].policy), (4, 0));
    assert!(!logs::contains(PASSWORD) && !logs::contains("another password"));
}

#[tokio::test]
async fn a_slow_agent_gets_the_newest_state_and_none_in_between() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    let mut stream = Stream::subscribed(&mut client).await;
    assert_eq!(stream.next().await.version, 1);
    let mut other = Stream::subscribed(&mut client).await;
    other.take().await;
    for (version, password_now) in [("2", "second password"), ("3", "third password")] {
        world.rotate(password_now, version);
        // An agent that is not slow has it each time.
        assert_eq!(password(&other.take().await), Some(password_now));
    }
    // Not acknowledged, it comes when the time is over.
    let late = stream.take().await;
    assert_eq!((late.version, password(&late)), (2, Some("third password")));
    // That counts from then on: the next one does not wait.
    world.rotate("fourth password", "4");
    assert_eq!(password(&stream.take().await), Some("fourth password"));
}

#[tokio::test]
async fn an_agent_that_cannot_put_a_version_in_force_is_told_of_the_next() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut stream = Stream::subscribed(&mut controller.agent(&world)).await;
    stream.next().await;
    stream
        .acknowledge(1, "no room in\nthe map of this test")
        .await;
    world.rotate("after the fault", "2");
    assert_eq!(password(&stream.take().await), Some("after the fault"));
    assert!(logs::contains(r"no room in\nthe map of this test"));
}

#[tokio::test]
async fn a_stream_does_not_outlive_its_token() {
    let world = World::new().await;
    let age = Duration::from_millis(500);
    let controller = world.controller_with(|it| it.with_stream_age(age)).await;
    let mut client = controller.agent(&world);
    for _ in 0..2 {
        let mut stream = Stream::subscribed(&mut client).await;
        assert!(stream.take().await.full);
        let status = stream.end().await;
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("present token"), "{status}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_taken_away() {
    let world = World::new().await;
    let every = Duration::from_millis(50);
    let controller = world
        .controller_with(|it| it.with_reviews_every(every))
        .await;
    let mut client = controller.agent(&world);
    let mut stream = Stream::subscribed(&mut client).await;
    stream.take().await;
    // An API server that does not answer takes nothing away.
    world.api.handle().set_away(true);
    tokio::time::sleep(4 * every).await;
    world.rotate("while nobody answers", "2");
    assert_eq!(password(&stream.take().await), Some("while nobody answers"));
    world.api.handle().set_away(false);
    let reviews = world.count("create", "tokenreviews") + 2;
    soon(async {
        while world.count("create", "tokenreviews") < reviews {
            tokio::time::sleep(every).await;
        }
    })
    .await;
    world.rotate("while it is valid", "3");
    assert_eq!(password(&stream.take().await), Some("while it is valid"));
    world.api.handle().revoke_token(TOKEN);
    assert_eq!(stream.end().await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_that_comes_to_its_end_only_asks_for_the_next() {
    let world = World::new().await;
    let every = Duration::from_millis(50);
    let controller = world
        .controller_with(|it| it.with_reviews_every(every))
        .await;
    let end = SystemTime::now() + Duration::from_secs(1);
    let token = jwt(AUDIENCE, "postern-agent", end);
    world.token(&token, agent("node-1"), AUDIENCE);
    let mut client = controller.agent(&world);
    let mut stream = Stream::open(&mut client, Some(&token)).await.unwrap();
    stream.hello("node-1").await;
    stream.take().await;
    tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(2100)).await;
    world.api.handle().revoke_token(&token);
    assert_eq!(stream.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn of_many_streams_of_one_node_the_newest_stay() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    let mut streams = Vec::new();
    for _ in 0..=STREAMS_OF_A_NODE {
        let mut stream = Stream::subscribed(&mut client).await;
        stream.take().await;
        streams.push(stream);
    }
    assert_eq!(streams[0].end().await.code(), Code::Unavailable);
    world.rotate("for the newest", "2");
    for stream in &mut streams[1..] {
        assert_eq!(password(&stream.take().await), Some("for the newest"));
    }
}

#[tokio::test]
async fn two_agents_of_one_node_are_both_told() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut old = Stream::subscribed(&mut controller.agent(&world)).await;
    let mut new = Stream::subscribed(&mut controller.agent(&world)).await;
    assert!(old.take().await.full && new.take().await.full);
    world.rotate("for both", "2");
    assert_eq!(password(&old.take().await), Some("for both"));
    assert_eq!(password(&new.take().await), Some("for both"));
}

#[tokio::test]
async fn nothing_is_sent_before_the_cluster_is_known() {
    let world = World::new().await;
    let controller = world.ignorant_controller().await;
    let mut client = controller.agent(&world);
    let mut stream = Stream::subscribed(&mut client).await;
    // An answer to a second call says that the first one was taken in.
    let refused = Stream::open(&mut client, Some("forged")).await;
    assert_eq!(refused.err().unwrap().code(), Code::Unauthenticated);
    world.rotate("what is known first", "2");
    let first = stream.take().await;
    assert!(first.full);
    assert_eq!(password(&first), Some("what is known first"));
}

#[tokio::test]
async fn a_stream_that_does_not_keep_to_the_protocol_is_ended() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    // Silent.
    let mut stream = Stream::open(&mut client, Some(TOKEN)).await.unwrap();
    assert_eq!(stream.end().await.code(), Code::DeadlineExceeded);
    // Something else first.
    let mut stream = Stream::open(&mut client, Some(TOKEN)).await.unwrap();
    stream.acknowledge(1, "").await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
    // Nothing at all.
    let mut stream = Stream::open(&mut client, Some(TOKEN)).await.unwrap();
    stream.outgoing.send(AgentMessage { kind: None }).await.ok();
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
    // A second Hello.
    let mut stream = Stream::subscribed(&mut client).await;
    stream.take().await;
    stream.hello("node-1").await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
    // What was never sent.
    let mut stream = Stream::subscribed(&mut client).await;
    stream.next().await;
    let kind = Some(Kind::Acknowledge(Acknowledge {
        version: 7,
        error: String::new(),
    }));
    stream.outgoing.send(AgentMessage { kind }).await.ok();
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_agent_comes_back_to_a_controller_that_was_restarted() {
    let world = World::new().await;
    let controller = world.controller().await;
    let address = controller.address;
    let mut client = controller.agent(&world);
    let mut stream = Stream::subscribed(&mut client).await;
    stream.take().await;
    controller.stop().await;
    assert_eq!(stream.end().await.code(), Code::Unavailable);

    world.rotate("after the restart", "2");
    let _controller = world.controller_at(address, |it| it).await;
    // The same channel, with the root that it has trusted all along.
    let mut stream = soon(async {
        loop {
            match Stream::open(&mut client, Some(TOKEN)).await {
                Ok(stream) => break stream,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    })
    .await;
    stream.hello("node-1").await;
    let full = stream.take().await;
    assert!(full.full);
    assert_eq!(password(&full), Some("after the restart"));
    assert_eq!(world.count("create", "secrets"), 1);
}
