//! Events about pods that do not trust the authority of their node.

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use proxy_common::distribution::{Untrusting, UntrustingReport};
use serde_json::Value;
use tonic::Code;

use crate::support::{TOKEN, World, authorized, code};

fn report(node: &str, pod_uid: &str, host: &str) -> UntrustingReport {
    UntrustingReport {
        node: node.to_owned(),
        list: vec![Untrusting {
            pod_uid: pod_uid.to_owned(),
            host: host.to_owned(),
            connections: 3,
        }],
    }
}

/// The uid of the pod that the node has.
fn pod(world: &World) -> (String, String) {
    let state = world.nodes.subscribe("node-1").borrow().clone();
    let update = state.expect("a state").full(1);
    let workload = &update.workloads[0];
    (workload.pod_uid.clone(), workload.name.clone())
}

async fn events(world: &World) -> Vec<Value> {
    let events: Api<Event> = Api::all(world.admin());
    let list = events.list(&ListParams::default()).await.unwrap();
    let events = list.items.iter();
    events.map(|it| serde_json::to_value(it).unwrap()).collect()
}

#[tokio::test]
async fn a_pod_that_does_not_trust_gets_one_event() {
    let world = World::new().await;
    let controller = world.controller().await;
    let (uid, name) = pod(&world);
    let mut client = controller.agent(&world);
    for _ in 0..3 {
        let report = report("node-1", &uid, "api.example.com");
        let answer = client.report_untrusting(authorized(report, Some(TOKEN)));
        answer.await.expect("it is taken");
    }
    // Another replica, or one that was started anew, does not know what this one has written.
    let other = world.controller().await;
    let again = authorized(report("node-1", &uid, "api.example.com"), Some(TOKEN));
    let answer = other.agent(&world).report_untrusting(again).await;
    answer.expect("it is taken");
    assert_eq!(world.count("create", "events"), 2);
    let found = events(&world).await;
    let [event] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(event["reason"], "UntrustedCA");
    assert_eq!(event["type"], "Warning");
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"], &regarding["uid"]),
        (&"Pod".into(), &name.into(), &uid.into())
    );
    let note = event["note"].as_str().unwrap_or_default();
    for part in [
        "api.example.com",
        "postern-ca",
        "onUntrustedCA",
        "3 connections",
    ] {
        assert!(note.contains(part), "{note}");
    }
    assert!(note.len() <= 1024);
}

#[tokio::test]
async fn an_agent_has_no_events_written_about_what_is_not_its_own() {
    let world = World::new().await;
    let controller = world.controller().await;
    let (uid, _) = pod(&world);
    let mut client = controller.agent(&world);
    for (pod, host) in [("another", "api.example.com"), (&*uid, "evil.example.com")] {
        let answer = client.report_untrusting(authorized(report("node-1", pod, host), Some(TOKEN)));
        answer.await.expect("it is passed over");
    }
    let elsewhere = authorized(report("node-2", &uid, "api.example.com"), Some(TOKEN));
    let refused = client.report_untrusting(elsewhere).await;
    assert_eq!(code(refused), Code::PermissionDenied);
    let nobody = authorized(report("node-1", &uid, "api.example.com"), None);
    let refused = client.report_untrusting(nobody).await;
    assert_eq!(code(refused), Code::Unauthenticated);
    assert_eq!(world.count("create", "events"), 0);
}
