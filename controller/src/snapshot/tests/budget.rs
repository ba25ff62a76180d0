//! What does not fit into a message.

use prost::Message as _;

use super::*;
use crate::snapshot::budget::{LeftOut, fit};
use crate::snapshot::{Entry, Node, host_size};
use crate::testing::login;
use connectors::ConnectorId;
use std::sync::Arc;

/// Connectors with passwords of these lengths.
fn entries(lengths: &[usize]) -> BTreeMap<ConnectorId, Arc<Entry>> {
    let mut catalog = catalog();
    for (index, length) in lengths.iter().enumerate() {
        let secret = login(&"x".repeat(*length));
        let address = format!("https://c{index}.example.com");
        let name = format!("c{index}");
        publish(&mut catalog, &name, &at(&address), Some((&secret, "1")));
    }
    let entries = catalog.entries("team");
    entries
        .map(|entry| (entry.connector.id, Arc::clone(entry)))
        .collect()
}

fn total(entries: &BTreeMap<ConnectorId, Arc<Entry>>) -> usize {
    entries.values().map(|it| it.size).sum()
}

#[test]
fn what_fits_stays_as_it_is() {
    let mut fitting = entries(&[100, 200]);
    let room = total(&fitting);
    assert_eq!(fit(&mut fitting, room), LeftOut::default());
    assert!(fitting.values().all(|it| it.usable));
}

#[test]
fn the_largest_connector_is_refused_and_the_others_work() {
    let mut fitting = entries(&[100, 5000, 200]);
    let room = total(&fitting) - 1;
    let left_out = fit(&mut fitting, room);
    assert!(total(&fitting) <= room);
    assert_eq!((left_out.stripped.len(), left_out.dropped.len()), (1, 0));
    for entry in fitting.values() {
        let large = entry.connector.name == "c1";
        assert_eq!(entry.usable, !large);
        assert_eq!(entry.connector.credential.is_none(), large);
        assert!(entry.connector.addresses().count() == 1, "it is refused");
    }
}

#[test]
fn what_has_no_room_for_its_address_is_not_sent() {
    let mut fitting = entries(&[100, 100]);
    let room = 150;
    let left_out = fit(&mut fitting, room);
    assert!(total(&fitting) <= room);
    assert_eq!(left_out.dropped.len() + fitting.len(), 2);
    assert!(left_out.stripped.iter().all(|id| fitting.contains_key(id)));
}

#[test]
fn the_size_is_that_of_the_message() {
    let mut catalog = catalog();
    let secret = login(&"x".repeat(300));
    publish(&mut catalog, "a", &sound(), Some((&secret, "1")));
    let mut node = Node::default();
    node.upsert(pod("1", "team", "builder"));
    let (state, _) = node.evaluate(&catalog, &allowed(&["builder"]));
    let whole = state.full(1).encoded_len();
    let mut without = state.full(1);
    without.connectors.clear();
    let entry = catalog.entries("team").next().expect("one");
    assert_eq!(entry.size, whole - without.encoded_len());
}

#[test]
fn hosts_come_in_turns_and_once() {
    let mut catalog = catalog();
    let secret = login("hunter2");
    for (name, host) in [("a", "a"), ("b", "b"), ("c", "b")] {
        let address = format!("https://{host}.example.com/{name}");
        publish(&mut catalog, name, &at(&address), Some((&secret, "1")));
    }
    let mut node = Node::default();
    node.upsert(pod("1", "team", "builder"));
    let (state, _) = node.evaluate(&catalog, &allowed(&["builder"]));
    assert_eq!(state.hosts(), ["a.example.com", "b.example.com"]);
}

#[test]
fn long_hosts_of_one_namespace_do_not_displace_short_ones_of_another() {
    let mut node = Node::default();
    let mut catalog = catalog();
    let class = basic();
    let mut add = |namespace: &str, name: &str, host: &str| {
        let id = catalog.id(namespace, name, &format!("{namespace}/{name}"));
        let mut object = manifest(name, &at(&format!("https://{host}")));
        object.metadata.namespace = Some(namespace.to_owned());
        let objects = Objects {
            class: Some(&class),
            secret: None,
            ca_secret: None,
        };
        let resolution = reconcile(id, &object, objects).resolution;
        catalog.publish(namespace, name, resolution, None);
    };
    let label = "x".repeat(60);
    for number in 0..40 {
        add(
            "flood",
            &format!("c{number}"),
            &format!("{label}.{label}.f{number}.example"),
        );
        add("team", &format!("c{number}"), &format!("t{number}.example"));
    }
    node.upsert(pod("1", "team", "builder"));
    node.upsert(pod("2", "flood", "builder"));
    let mut reviews = allowed(&["builder"]);
    reviews.answer(
        crate::grants::Review {
            namespace: "flood".to_owned(),
            ..review("builder", None)
        },
        true,
    );
    let (state, _) = node.evaluate(&catalog, &reviews);
    let hosts = state.hosts();
    assert_eq!(hosts.len(), 80);
    // All of the one are among the first hosts before a share of the other is used up.
    let of_team: usize = (0..40).map(|it| host_size(&format!("t{it}.example"))).sum();
    let last = hosts.iter().rposition(|host| host.starts_with('t'));
    let before = &hosts[..last.expect("a host")];
    let of_flood = before.iter().filter(|host| host.starts_with('x'));
    let used: usize = of_flood.map(|host| host_size(host)).sum();
    assert!(
        used <= of_team + host_size(&format!("{label}.{label}.f10.example")),
        "{used}"
    );
}
