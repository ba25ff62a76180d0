//! Single requests.

use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn a_missing_object_is_404_and_a_second_one_409() {
    let server = server().await;
    refused(&get(&server, &format!("{MAPS}/a")).await, 404, "NotFound");
    assert_eq!(post(&server, MAPS, &config_map("a")).await.status, 201);
    let again = post(&server, MAPS, &config_map("a")).await;
    refused(&again, 409, "AlreadyExists");
    assert_eq!(again.body["details"]["name"], "a");
}

#[tokio::test]
async fn resource_versions_rise_over_all_objects() {
    let server = server().await;
    let first = post(&server, MAPS, &config_map("a")).await.body;
    let other = post(
        &server,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "other"}}),
    )
    .await
    .body;
    assert!(version(&other) > version(&first));
    assert!(version(&get(&server, MAPS).await.body) >= version(&other));
}

#[tokio::test]
async fn a_stale_update_conflicts_and_an_equal_one_changes_nothing() {
    let server = server().await;
    let mut first = post(&server, MAPS, &config_map("a")).await.body;
    let path = format!("{MAPS}/a");
    let same = put(&server, &path, &first).await.body;
    assert_eq!(version(&same), version(&first));
    let mut second = first.clone();
    second["data"]["a"] = json!("2");
    assert_eq!(put(&server, &path, &second).await.status, 200);
    first["data"]["a"] = json!("3");
    refused(&put(&server, &path, &first).await, 409, "Conflict");
}

#[tokio::test]
async fn generate_name_makes_names_and_namespaces_have_to_exist() {
    let server = server().await;
    let made = post(&server, MAPS, &json!({"metadata": {"generateName": "x-"}}))
        .await
        .body;
    assert!(
        made["metadata"]["name"].as_str().unwrap().len() == 7,
        "{made}"
    );
    refused(
        &post(&server, MAPS, &json!({"metadata": {}})).await,
        422,
        "Invalid",
    );
    let elsewhere = "/api/v1/namespaces/nowhere/configmaps";
    refused(
        &post(&server, elsewhere, &config_map("a")).await,
        404,
        "NotFound",
    );
}

#[tokio::test]
async fn generation_counts_changes_of_spec_only() {
    let server = server_with_widgets().await;
    let made = post(&server, WIDGETS, &widget("a")).await.body;
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{WIDGETS}/a");
    let labelled = patch(
        &server,
        &path,
        MERGE,
        &json!({"metadata": {"labels": {"a": "b"}}}),
    )
    .await
    .body;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let changed = patch(&server, &path, MERGE, &json!({"spec": {"size": 2}}))
        .await
        .body;
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn status_is_a_resource_of_its_own() {
    let server = server_with_widgets().await;
    let mut given = widget("a");
    given["status"] = json!({"count": 1});
    let made = post(&server, WIDGETS, &given).await.body;
    assert!(made.get("status").is_none());
    let path = format!("{WIDGETS}/a");
    let ignored = patch(&server, &path, MERGE, &json!({"status": {"count": 2}}))
        .await
        .body;
    assert!(ignored.get("status").is_none());
    let change = json!({"status": {"count": 3}, "spec": {"host": "b.test"}});
    let set = patch(&server, &format!("{path}/status"), MERGE, &change)
        .await
        .body;
    assert_eq!(
        (&set["status"]["count"], &set["spec"]["host"]),
        (&json!(3), &json!("a.test"))
    );
    assert_eq!(set["metadata"]["generation"], 1);
}

#[tokio::test]
async fn schemas_prune_default_and_validate() {
    let server = server_with_widgets().await;
    let mut given = widget("a");
    given["spec"]["unknown"] = json!(1);
    given["spec"]["free"] = json!({"kept": 1});
    let response = post(&server, WIDGETS, &given).await;
    assert_eq!(
        response.body["spec"],
        json!({"host": "a.test", "mode": "Closed", "free": {"kept": 1}})
    );
    assert!(
        response.headers["warning"]
            .to_str()
            .unwrap()
            .contains("unknown field")
    );
    refused(
        &post(
            &server,
            &format!("{WIDGETS}?fieldValidation=Strict"),
            &given,
        )
        .await,
        400,
        "BadRequest",
    );
    for (field, value) in [
        ("host", json!("A")),
        ("mode", json!("Ajar")),
        ("size", json!(10)),
        ("size", json!("1")),
    ] {
        let mut bad = widget("b");
        bad["spec"][field] = value;
        let response = post(&server, WIDGETS, &bad).await;
        refused(&response, 422, "Invalid");
        assert_eq!(
            response.body["details"]["causes"][0]["field"],
            format!("spec.{field}")
        );
    }
    let missing = json!({"metadata": {"name": "b"}, "spec": {}});
    refused(&post(&server, WIDGETS, &missing).await, 422, "Invalid");
}

#[tokio::test]
async fn a_definition_without_a_schema_is_refused_and_a_deleted_one_takes_its_objects() {
    let server = server_with_widgets().await;
    let mut bad = definition();
    bad["metadata"]["name"] = json!("other.example.test");
    refused(&post(&server, CRDS, &bad).await, 422, "Invalid");
    post(&server, WIDGETS, &widget("a")).await;
    assert_eq!(
        delete(&server, &format!("{CRDS}/widgets.example.test"))
            .await
            .status,
        200
    );
    refused(&get(&server, WIDGETS).await, 404, "NotFound");
    post(&server, CRDS, &definition()).await;
    assert_eq!(get(&server, WIDGETS).await.body["items"], json!([]));
}

#[tokio::test]
async fn finalizers_delay_the_end_of_an_object() {
    let server = server_with_widgets().await;
    let mut held = widget("a");
    held["metadata"]["finalizers"] = json!(["example.test/hold"]);
    post(&server, WIDGETS, &held).await;
    let path = format!("{WIDGETS}/a");
    let marked = delete(&server, &path).await.body;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["generation"], 2);
    let more = json!({"metadata": {"finalizers": ["example.test/hold", "example.test/more"]}});
    refused(&patch(&server, &path, MERGE, &more).await, 422, "Invalid");
    patch(
        &server,
        &path,
        MERGE,
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    refused(&get(&server, &path).await, 404, "NotFound");
}

#[tokio::test]
async fn deletion_has_preconditions_dry_runs_and_dependents() {
    let server = server().await;
    let owner = post(&server, MAPS, &config_map("owner")).await.body;
    let mut dependent = config_map("dependent");
    dependent["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    post(&server, MAPS, &dependent).await;
    let path = format!("{MAPS}/owner");
    let wrong = json!({"preconditions": {"uid": "other"}});
    refused(
        &send(&server, "DELETE", &path, &[], &wrong).await,
        409,
        "Conflict",
    );
    assert_eq!(
        delete(&server, &format!("{path}?dryRun=All")).await.status,
        200
    );
    assert_eq!(get(&server, &path).await.status, 200);
    assert_eq!(delete(&server, &path).await.body["status"], "Success");
    refused(
        &get(&server, &format!("{MAPS}/dependent")).await,
        404,
        "NotFound",
    );
}

#[tokio::test]
async fn a_namespace_takes_what_is_in_it() {
    let server = server().await;
    post(
        &server,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "gone"}}),
    )
    .await;
    let maps = "/api/v1/namespaces/gone/configmaps";
    let mut held = config_map("a");
    held["metadata"]["finalizers"] = json!(["example.test/hold"]);
    post(&server, maps, &held).await;
    assert_eq!(
        delete(&server, "/api/v1/namespaces/gone").await.body["status"]["phase"],
        "Terminating"
    );
    refused(
        &post(&server, maps, &config_map("b")).await,
        403,
        "Forbidden",
    );
    patch(
        &server,
        &format!("{maps}/a"),
        MERGE,
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    refused(
        &get(&server, "/api/v1/namespaces/gone").await,
        404,
        "NotFound",
    );
}

#[tokio::test]
async fn secrets_encode_texts_and_keep_their_type() {
    let server = server().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let made = post(
        &server,
        secrets,
        &json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}}),
    )
    .await
    .body;
    assert_eq!(
        (&made["data"]["k"], &made["type"]),
        (&json!("dg=="), &json!("Opaque"))
    );
    assert!(made.get("stringData").is_none());
    let path = format!("{secrets}/s");
    refused(
        &patch(&server, &path, MERGE, &json!({"type": "other"})).await,
        422,
        "Invalid",
    );
    assert_eq!(
        patch(&server, &path, MERGE, &json!({"immutable": true}))
            .await
            .status,
        200
    );
    refused(
        &patch(&server, &path, MERGE, &json!({"data": {"k": "eA=="}})).await,
        422,
        "Invalid",
    );
}

#[tokio::test]
async fn pods_get_an_account_and_stay_until_their_node_lets_them_go() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let made = post(&server, pods, &pod).await.body;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["status"]["phase"], "Pending");
    let path = format!("{pods}/p");
    refused(
        &patch(
            &server,
            &path,
            MERGE,
            &json!({"spec": {"hostNetwork": true}}),
        )
        .await,
        422,
        "Invalid",
    );
    assert!(delete(&server, &path).await.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(get(&server, &path).await.status, 200);
    send(
        &server,
        "DELETE",
        &path,
        &[],
        &json!({"gracePeriodSeconds": 0}),
    )
    .await;
    assert_eq!(get(&server, &path).await.status, 404);
}

#[tokio::test]
async fn pages_show_one_state_until_it_is_compacted() {
    let server = server().await;
    for name in ["a", "b", "c", "d"] {
        post(&server, MAPS, &config_map(name)).await;
    }
    let first = get(&server, &format!("{MAPS}?limit=2")).await.body;
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    delete(&server, &format!("{MAPS}/c")).await;
    let second = get(&server, &format!("{MAPS}?limit=2&continue={token}"))
        .await
        .body;
    let names: Vec<&Value> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    server.handle().compact();
    refused(
        &get(&server, &format!("{MAPS}?limit=2&continue={token}")).await,
        410,
        "Expired",
    );
    refused(
        &get(&server, &format!("{MAPS}?resourceVersion=99999999")).await,
        504,
        "Timeout",
    );
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let server = server().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "")] {
        let mut map = config_map(name);
        if !label.is_empty() {
            map["metadata"]["labels"] = json!({"l": label});
        }
        post(&server, MAPS, &map).await;
    }
    for (query, expected) in [
        ("labelSelector=l%3Dx", vec!["a"]),
        ("labelSelector=l%20in%20(x,y)", vec!["a", "b"]),
        ("labelSelector=l%20notin%20(x)", vec!["b", "c"]),
        ("labelSelector=!l", vec!["c"]),
        ("labelSelector=l,l!%3Dx", vec!["b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
    ] {
        let list = get(&server, &format!("{MAPS}?{query}")).await.body;
        let names: Vec<&Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["metadata"]["name"])
            .collect();
        assert_eq!(names, expected, "{query}");
    }
    refused(
        &get(&server, &format!("{MAPS}?fieldSelector=data.a%3D1")).await,
        400,
        "BadRequest",
    );
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let server = server().await;
    post(&server, MAPS, &config_map("a")).await;
    let accept = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    )];
    let list = send(&server, "GET", MAPS, &accept, &Value::Null).await.body;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("data").is_none());
}

#[tokio::test]
async fn events_have_two_forms() {
    let server = server().await;
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "why", "reason": "R", "type": "Normal",
        "action": "A", "reportingController": "c", "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z",
    });
    let made = post(
        &server,
        "/apis/events.k8s.io/v1/namespaces/default/events",
        &event,
    )
    .await;
    assert_eq!(
        (made.status, &made.body["note"]),
        (201, &json!("why")),
        "{}",
        made.body
    );
    let list = get(
        &server,
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp",
    )
    .await
    .body;
    assert_eq!(list["items"][0]["message"], "why");
    assert_eq!(list["items"][0]["reportingComponent"], "c");
}

#[tokio::test]
async fn unknown_paths_methods_and_media_are_refused() {
    let server = server().await;
    refused(
        &get(&server, "/apis/none.test/v1/things").await,
        404,
        "NotFound",
    );
    refused(
        &put(&server, MAPS, &config_map("a")).await,
        405,
        "MethodNotAllowed",
    );
    post(&server, MAPS, &config_map("a")).await;
    refused(
        &patch(&server, &format!("{MAPS}/a"), "text/plain", &json!({})).await,
        415,
        "UnsupportedMediaType",
    );
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    refused(
        &send(&server, "GET", MAPS, &protobuf, &Value::Null).await,
        406,
        "NotAcceptable",
    );
    let mut wrong = config_map("b");
    wrong["kind"] = json!("Secret");
    refused(&post(&server, MAPS, &wrong).await, 400, "BadRequest");
}
