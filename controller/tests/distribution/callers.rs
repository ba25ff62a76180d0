//! Who is served, and who is refused.

use std::time::{Duration, SystemTime};

use fake_apiserver::Identity;
use postern_controller::distribution::AUDIENCE;
use proxy_common::distribution::SignRequest;
use tonic::Code;

use crate::logs;
use crate::support::{NAMESPACE, Stream, TOKEN, World, agent, authorized, code, jwt};

#[tokio::test]
async fn strangers_are_refused() {
    let world = World::new().await;
    let controller = world.controller().await;
    let account = |namespace, name| {
        Identity::service_account(namespace, name).bound_to("pod", "uid", "node-1")
    };
    world.token("for-the-api", agent("node-1"), fake_apiserver::API_AUDIENCE);
    world.token("of-a-pod", account("team", "postern-agent"), AUDIENCE);
    world.token("of-another", account(NAMESPACE, "other"), AUDIENCE);
    let unbound = Identity::service_account(NAMESPACE, "postern-agent");
    world.token("unbound", unbound, AUDIENCE);
    world.token("over", agent("node-1"), AUDIENCE);
    world.api.handle().revoke_token("over");
    let mut client = controller.agent(&world);
    for (token, expected) in [
        (None, Code::Unauthenticated),
        (Some("forged-token-of-this-test"), Code::Unauthenticated),
        (Some("over"), Code::Unauthenticated),
        (Some("for-the-api"), Code::Unauthenticated),
        (Some("of-a-pod"), Code::PermissionDenied),
        (Some("of-another"), Code::PermissionDenied),
        (Some("unbound"), Code::PermissionDenied),
    ] {
        let refused = Stream::open(&mut client, token).await;
        assert_eq!(code(refused), expected, "{token:?}");
        let request = SignRequest {
            csr: Vec::new(),
            node: "node-1".to_owned(),
        };
        let refused = client.sign_node_authority(authorized(request, token)).await;
        let status = refused.err().unwrap();
        assert_eq!(status.code(), expected, "{token:?}");
        let names_version = status.message().contains("Kubernetes 1.30");
        assert_eq!(names_version, token == Some("unbound"), "{status}");
    }
    assert!(!logs::contains("forged-token-of-this-test"));
}

#[tokio::test]
async fn an_agent_gets_nothing_of_another_node() {
    let world = World::new().await;
    let controller = world.controller().await;
    world.token("token-of-node-2", agent("node-2"), AUDIENCE);
    let mut client = controller.agent(&world);
    let mut stream = Stream::open(&mut client, Some("token-of-node-2"))
        .await
        .unwrap();
    stream.hello("node-1").await;
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
    let request = SignRequest {
        csr: Vec::new(),
        node: "node-1".to_owned(),
    };
    let refused = client
        .sign_node_authority(authorized(request, Some("token-of-node-2")))
        .await;
    assert_eq!(code(refused), Code::PermissionDenied);
    // Its own state it gets, and there is nothing in it.
    let mut stream = Stream::open(&mut client, Some("token-of-node-2"))
        .await
        .unwrap();
    stream.hello("node-2").await;
    let update = stream.take().await;
    assert!(update.full && update.connectors.is_empty() && update.workloads.is_empty());
}

#[tokio::test]
async fn a_valid_token_is_reviewed_once_and_an_invalid_one_each_time() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    for _ in 0..3 {
        Stream::subscribed(&mut client).await.take().await;
    }
    assert_eq!(world.count("create", "tokenreviews"), 1);
    for _ in 0..2 {
        let refused = Stream::open(&mut client, Some("not yet valid")).await;
        assert_eq!(code(refused), Code::Unauthenticated);
    }
    assert_eq!(world.count("create", "tokenreviews"), 3);
    world.token("not yet valid", agent("node-1"), AUDIENCE);
    let stream = Stream::open(&mut client, Some("not yet valid")).await;
    assert!(stream.is_ok());
}

#[tokio::test]
async fn what_cannot_be_valid_is_not_reviewed() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    let (hour, now) = (Duration::from_hours(1), SystemTime::now());
    let sound = jwt(AUDIENCE, "postern-agent", now + hour);
    for token in [
        jwt("others", "postern-agent", now + hour),
        jwt(AUDIENCE, "default", now + hour),
        jwt(AUDIENCE, "postern-agent", now - hour),
        "not.really.one".to_owned(),
    ] {
        let refused = Stream::open(&mut client, Some(&token)).await;
        assert_eq!(code(refused), Code::Unauthenticated, "{token}");
    }
    assert_eq!(world.count("create", "tokenreviews"), 0);
    // What may be valid is asked about, and nothing else lets anybody in.
    let refused = Stream::open(&mut client, Some(&sound)).await;
    assert_eq!(code(refused), Code::Unauthenticated);
    assert_eq!(world.count("create", "tokenreviews"), 1);
    world.token(&sound, agent("node-1"), AUDIENCE);
    assert!(Stream::open(&mut client, Some(&sound)).await.is_ok());
}

#[tokio::test]
async fn there_are_so_many_reviews_of_foreign_tokens() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    let mut busy = false;
    for number in 0..500 {
        let token = format!("foreign-{number}");
        let refused = Stream::open(&mut client, Some(&token)).await;
        busy |= code(refused) == Code::Unavailable;
    }
    assert!(busy && world.count("create", "tokenreviews") < 500);
    // Tokens of service accounts are reviewed all the same.
    let sound = jwt(
        AUDIENCE,
        "postern-agent",
        SystemTime::now() + Duration::from_hours(1),
    );
    world.token(&sound, agent("node-1"), AUDIENCE);
    assert!(Stream::open(&mut client, Some(&sound)).await.is_ok());
}

#[tokio::test]
async fn without_an_api_server_agents_are_asked_to_try_again() {
    let world = World::new().await;
    let controller = world.controller().await;
    let mut client = controller.agent(&world);
    world.api.handle().set_away(true);
    let refused = Stream::open(&mut client, Some(TOKEN)).await;
    assert_eq!(code(refused), Code::Unavailable);
    world.api.handle().set_away(false);
    let mut stream = Stream::subscribed(&mut client).await;
    assert!(stream.take().await.full);
    assert!(!logs::contains(TOKEN));
}
