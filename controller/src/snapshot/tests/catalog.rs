//! Ids, generations and revisions.

use std::sync::Arc;

use super::*;
use crate::snapshot::Entry;
use crate::testing::login;

fn entry(catalog: &Catalog, name: &str) -> Arc<Entry> {
    let mut entries = catalog.entries("team");
    let found = entries.find(|entry| entry.connector.name == name);
    Arc::clone(found.expect("published"))
}

#[test]
fn publishing_the_same_again_changes_nothing() {
    let mut catalog = catalog();
    let secret = login("hunter2");
    assert!(publish(&mut catalog, "api", &sound(), Some((&secret, "1"))));
    let before = entry(&catalog, "api");
    assert!(!publish(
        &mut catalog,
        "api",
        &sound(),
        Some((&secret, "1"))
    ));
    assert!(Arc::ptr_eq(&before, &entry(&catalog, "api")));
}

#[test]
fn the_generation_counts_changes_of_the_bytes_and_the_revision_those_of_the_object() {
    let mut catalog = catalog();
    let (one, two) = (login("hunter2"), login("hunter3"));
    let mut revisions = Vec::new();
    for (step, secret, generation) in [
        ("first", Some((&one, "1")), 1),
        ("only the object changed", Some((&one, "2")), 1),
        ("the bytes changed", Some((&two, "3")), 2),
        ("deleted", None, 3),
        ("there again", Some((&two, "4")), 4),
        ("the first bytes again", Some((&one, "5")), 5),
    ] {
        assert!(publish(&mut catalog, "api", &sound(), secret), "{step}");
        let entry = entry(&catalog, "api");
        assert_eq!(entry.generation, generation, "{step}");
        assert_eq!(entry.usable, secret.is_some(), "{step}");
        assert_eq!(entry.revision == 0, secret.is_none(), "{step}");
        assert!(!revisions.contains(&entry.revision), "{step}");
        revisions.push(entry.revision);
    }
}

#[test]
fn a_revision_is_the_same_on_every_replica() {
    let secret = login("hunter2");
    let (mut one, mut other) = (catalog(), catalog());
    for catalog in [&mut one, &mut other] {
        publish(catalog, "api", &sound(), Some((&secret, "7")));
    }
    let (one, other) = (entry(&one, "api"), entry(&other, "api"));
    assert_eq!(
        (one.connector.id, one.revision),
        (other.connector.id, other.revision)
    );
}

#[test]
fn an_object_keeps_its_id_and_its_successor_gets_another() {
    let mut catalog = catalog();
    publish_as(&mut catalog, "first", "api", &sound(), None);
    let first = entry(&catalog, "api").connector.id;
    publish_as(
        &mut catalog,
        "first",
        "api",
        &at("https://b.example.com"),
        None,
    );
    assert_eq!(entry(&catalog, "api").connector.id, first);

    publish_as(&mut catalog, "second", "api", &sound(), None);
    let second = entry(&catalog, "api").connector.id;
    assert_ne!(second, first);

    assert!(catalog.remove("team", "api"));
    assert!(!catalog.remove("team", "api"));
    publish_as(&mut catalog, "second", "api", &sound(), None);
    let third = entry(&catalog, "api").connector.id;
    assert!(third != first && third != second, "an id was used again");
}

#[test]
fn without_an_address_there_is_no_entry_and_the_generation_goes_on_afterwards() {
    let mut catalog = catalog();
    let (one, two) = (login("hunter2"), login("hunter3"));
    publish(&mut catalog, "api", &sound(), Some((&one, "1")));
    let id = entry(&catalog, "api").connector.id;
    assert!(publish(
        &mut catalog,
        "api",
        &at("nonsense"),
        Some((&one, "1"))
    ));
    assert_eq!(catalog.entries("team").count(), 0);
    assert!(!publish(
        &mut catalog,
        "api",
        &at("nonsense"),
        Some((&one, "1"))
    ));
    publish(&mut catalog, "api", &sound(), Some((&two, "2")));
    let entry = entry(&catalog, "api");
    assert_eq!((entry.connector.id, entry.generation), (id, 2));
}

#[test]
fn what_came_of_an_object_that_is_gone_is_passed_over() {
    let mut catalog = catalog();
    let secret = login("hunter2");
    let class = basic();
    let id = catalog.id("team", "api", "uid");
    let objects = Objects {
        class: Some(&class),
        secret: Some(&secret),
        ca_secret: None,
    };
    let late = || reconcile(id, &manifest("api", &sound()), objects).resolution;
    catalog.remove("team", "api");
    assert!(!catalog.publish("team", "api", late(), None));
    catalog.id("team", "api", "uid of its successor");
    assert!(!catalog.publish("team", "api", late(), None));
    assert_eq!(catalog.entries("team").count(), 0);
}
