//! Server-side apply: who owns which field.

use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn apply_keeps_a_set_of_fields_for_each_manager() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    assert_eq!(
        apply(
            &server,
            &path,
            "one",
            false,
            &config(json!({"x": "1", "y": "1"}))
        )
        .await
        .status,
        201
    );
    assert_eq!(
        apply(&server, &path, "two", false, &config(json!({"z": "1"})))
            .await
            .status,
        200
    );
    let conflict = apply(
        &server,
        &path,
        "two",
        false,
        &config(json!({"z": "1", "x": "2"})),
    )
    .await;
    refused(&conflict, 409, "Conflict");
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".data.x");
    assert_eq!(
        conflict.body["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    // The same value is shared, and no conflict.
    assert_eq!(
        apply(
            &server,
            &path,
            "two",
            false,
            &config(json!({"z": "1", "y": "1"}))
        )
        .await
        .status,
        200
    );
    let forced = apply(
        &server,
        &path,
        "two",
        true,
        &config(json!({"y": "1", "x": "2"})),
    )
    .await
    .body;
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    // What a manager no longer applies goes, unless another one has it too.
    let rest = apply(&server, &path, "two", false, &config(json!({})))
        .await
        .body;
    assert_eq!(rest["data"], json!({"y": "1"}));
    let managers = rest["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers[0]["manager"], "one");
    assert_eq!(managers[0]["fieldsV1"], json!({"f:data": {"f:y": {}}}));
}

#[tokio::test]
async fn an_equal_apply_changes_nothing() {
    let server = server_with_widgets().await;
    let path = format!("{WIDGETS}/a");
    let first = apply(&server, &path, "one", true, &widget("a")).await.body;
    let status = json!({"apiVersion": "example.test/v1", "kind": "Widget", "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let second = apply(&server, &format!("{path}/status"), "one", true, &status)
        .await
        .body;
    assert!(version(&second) > version(&first));
    let third = apply(&server, &format!("{path}/status"), "one", true, &status)
        .await
        .body;
    assert_eq!(second, third);
    assert_eq!(
        apply(&server, &path, "one", true, &widget("a")).await.body,
        third
    );
}

#[tokio::test]
async fn an_apply_is_bound_to_a_version_and_not_to_a_uid() {
    let server = server_with_widgets().await;
    let path = format!("{WIDGETS}/a");
    let status_path = format!("{path}/status");
    let created = post(&server, WIDGETS, &widget("a")).await.body;
    let status = |field: &str, value: &str| {
        json!({
            "apiVersion": "example.test/v1",
            "kind": "Widget",
            "metadata": {field: value},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    // Of another object, and nevertheless written.
    let written = apply(&server, &status_path, "one", true, &status("uid", "other")).await;
    assert_eq!(written.status, 200);
    assert_eq!(written.body["metadata"]["uid"], created["metadata"]["uid"]);
    let mut other = widget("a");
    other["metadata"]["uid"] = json!("other");
    let changed = apply(&server, &path, "one", true, &other).await;
    refused(&changed, 422, "Invalid");
    assert!(
        changed.body["message"]
            .as_str()
            .unwrap()
            .contains("field is immutable")
    );

    let old = created["metadata"]["resourceVersion"].as_str().unwrap();
    let stale = apply(
        &server,
        &status_path,
        "one",
        true,
        &status("resourceVersion", old),
    )
    .await;
    refused(&stale, 409, "Conflict");
    let new = written.body["metadata"]["resourceVersion"]
        .as_str()
        .unwrap();
    let fresh = apply(
        &server,
        &status_path,
        "one",
        true,
        &status("resourceVersion", new),
    )
    .await;
    assert_eq!(fresh.status, 200);

    let nowhere = format!("{WIDGETS}/none/status");
    for field in ["uid", "resourceVersion"] {
        let absent = apply(&server, &nowhere, "one", true, &status(field, "1")).await;
        refused(&absent, 409, "Conflict");
    }
}

#[tokio::test]
async fn conditions_of_two_managers_live_side_by_side() {
    let server = server_with_widgets().await;
    post(&server, WIDGETS, &widget("a")).await;
    let path = format!("{WIDGETS}/a/status");
    let condition = |kind: &str| json!({"apiVersion": "example.test/v1", "kind": "Widget", "status": {"conditions": [{"type": kind, "status": "True"}]}});
    apply(&server, &path, "one", false, &condition("Ready")).await;
    let both = apply(&server, &path, "two", false, &condition("Seen"))
        .await
        .body;
    assert_eq!(both["status"]["conditions"].as_array().unwrap().len(), 2);
    let nothing = json!({"apiVersion": "example.test/v1", "kind": "Widget", "status": {}});
    let rest = apply(&server, &path, "one", false, &nothing).await.body;
    assert_eq!(
        rest["status"]["conditions"],
        json!([{"type": "Seen", "status": "True"}])
    );
}

#[tokio::test]
async fn an_update_takes_fields_from_an_apply() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    apply(&server, &path, "one", false, &config_map("a")).await;
    patch(&server, &path, MERGE, &json!({"data": {"a": "2"}})).await;
    let conflict = apply(&server, &path, "one", false, &config_map("a")).await;
    refused(&conflict, 409, "Conflict");
    assert!(
        conflict.body["message"]
            .as_str()
            .unwrap()
            .contains("conflict with \"raw\" using v1"),
        "{}",
        conflict.body
    );
    refused(
        &patch(&server, &path, APPLY, &config_map("a")).await,
        422,
        "Invalid",
    );
}
