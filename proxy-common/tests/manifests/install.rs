//! What is applied to a cluster: every field is one of Kubernetes', and nobody has a right
//! that it does not need.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::files;

/// Reads an object; a field that Kubernetes does not have would be gone from it.
fn read<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let name = &object["metadata"]["name"];
    let read: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{name} is no object of its kind: {error}"));
    let written = serde_json::to_value(&read).expect("it can be written");
    assert_eq!(&written, object, "{name}");
    read
}

fn agent() -> PodSpec {
    let object = read::<DaemonSet>(&files::object("DaemonSet", "postern-agent"));
    let spec = object.spec.expect("a spec").template.spec;
    spec.expect("a pod")
}

fn controller() -> PodSpec {
    let object = read::<Deployment>(&files::object("Deployment", "postern-controller"));
    let spec = object.spec.expect("a spec").template.spec;
    spec.expect("a pod")
}

fn only_container(pod: &PodSpec) -> &Container {
    let [container] = &pod.containers[..] else {
        panic!("one container");
    };
    container
}

#[test]
fn every_field_is_known() {
    for object in files::objects(".") {
        match object["kind"].as_str().unwrap_or_default() {
            "ClusterRole" => drop(read::<ClusterRole>(&object)),
            "ClusterRoleBinding" => drop(read::<ClusterRoleBinding>(&object)),
            "DaemonSet" => drop(read::<DaemonSet>(&object)),
            "Deployment" => drop(read::<Deployment>(&object)),
            "Namespace" => drop(read::<Namespace>(&object)),
            "PodDisruptionBudget" => drop(read::<PodDisruptionBudget>(&object)),
            "Role" => drop(read::<Role>(&object)),
            "RoleBinding" => drop(read::<RoleBinding>(&object)),
            "Service" => drop(read::<Service>(&object)),
            "ServiceAccount" => drop(read::<ServiceAccount>(&object)),
            // These have tests of their own.
            "Connector" | "ConnectorClass" | "CustomResourceDefinition" | "Secret" => {}
            other => panic!("{other} is new here"),
        }
    }
}

#[test]
fn kustomizations_name_every_file_beside_them() {
    for path in files::below(".") {
        let folder = path.parent().expect("a folder");
        let kustomization = folder.join("kustomization.yaml");
        if path == kustomization {
            let documents = files::documents(&path);
            let resources = documents[0]["resources"].as_array().expect("resources");
            for resource in resources.iter().filter_map(Value::as_str) {
                assert!(folder.join(resource).exists(), "{resource}");
            }
        } else {
            let name = path.file_name().and_then(|it| it.to_str());
            let documents = files::documents(&kustomization);
            let resources = documents[0]["resources"].as_array().expect("resources");
            assert!(
                resources.iter().any(|it| it.as_str() == name),
                "{} is not applied",
                path.display()
            );
        }
    }
}

#[test]
fn image_tags_are_this_version() {
    let documents = files::documents(&files::root().join(Path::new("kustomization.yaml")));
    let images = documents[0]["images"].as_array().expect("images");
    let named: BTreeSet<_> = images
        .iter()
        .map(|it| {
            assert_eq!(it["newTag"], env!("CARGO_PKG_VERSION"));
            it["name"].as_str().map(str::to_owned)
        })
        .collect();
    let used = [agent(), controller()].map(|it| only_container(&it).image.clone());
    assert_eq!(named, used.into());
}

#[test]
fn the_next_agent_takes_over_while_the_last_one_serves() {
    let object = read::<DaemonSet>(&files::object("DaemonSet", "postern-agent"));
    let strategy = object.spec.and_then(|spec| spec.update_strategy);
    let update = strategy.and_then(|it| it.rolling_update);
    let update = update.expect("a rolling update");
    assert_eq!(update.max_unavailable, Some(IntOrString::Int(0)));
    assert!(update.max_surge.is_some());
    // It would not start beside the other one.
    let pod = agent();
    let arguments = only_container(&pod).args.iter().flatten();
    assert!(arguments.into_iter().any(|it| it == "--take-over"));
}

#[test]
fn the_agent_has_no_permission() {
    let account = read::<ServiceAccount>(&files::object("ServiceAccount", "postern-agent"));
    assert_eq!(account.automount_service_account_token, Some(false));
    let bindings = files::objects(".").into_iter();
    for binding in bindings.filter(|it| it["subjects"].is_array()) {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        for subject in subjects {
            assert_ne!(subject["name"], "postern-agent");
            if subject["kind"] == "Group" {
                assert_eq!(subject["name"], "system:serviceaccounts:default");
            }
        }
    }

    let pod = agent();
    assert_eq!(pod.service_account_name.as_deref(), Some("postern-agent"));
    assert_eq!(pod.automount_service_account_token, Some(false));
    let tokens: Vec<_> = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|it| it.projected.as_ref())
        .flat_map(|it| it.sources.iter().flatten())
        .filter_map(|it| it.service_account_token.as_ref())
        .collect();
    let [token] = &tokens[..] else {
        panic!("one token");
    };
    assert_eq!(token.audience.as_deref(), Some("postern-controller"));
}

#[test]
fn the_agent_has_the_capabilities_it_needs_and_no_port_of_the_node() {
    let pod = agent();
    assert_eq!(pod.host_pid, Some(true));
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    let container = only_container(&pod);
    assert_eq!(container.ports, None);
    let context = container.security_context.as_ref().expect("a context");
    assert_eq!(context.privileged, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = serde_json::to_value(&context.capabilities).expect("it can be written");
    assert_eq!(
        capabilities,
        json!({
            "drop": ["ALL"],
            "add": ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE", "SYS_RESOURCE"],
        })
    );
    let writable: Vec<_> = container.volume_mounts.iter().flatten().collect();
    let writable = writable.into_iter().filter(|it| it.read_only != Some(true));
    let writable: Vec<_> = writable.map(|it| it.mount_path.as_str()).collect();
    assert_eq!(writable, ["/sys/fs/bpf", "/run/postern"]);
}

#[test]
fn the_agent_asks_for_names_as_they_are_written_first() {
    let pod = agent();
    assert_eq!(pod.dns_policy.as_deref(), Some("ClusterFirstWithHostNet"));
    let options = pod.dns_config.and_then(|config| config.options);
    let mut options = options.into_iter().flatten();
    // Else the search domains come first, and a namespace `com` has a part of them all.
    let ndots = options.find(|option| option.name.as_deref() == Some("ndots"));
    assert_eq!(ndots.and_then(|option| option.value).as_deref(), Some("1"));
}

/// The restricted level of the Pod Security Standards.
#[test]
fn the_controller_is_restricted() {
    let pod = controller();
    assert_eq!(
        (pod.host_pid, pod.host_network, pod.host_ipc),
        (None, None, None)
    );
    assert_eq!(pod.volumes, None);
    let context = pod.security_context.as_ref().expect("a context");
    assert_eq!(context.run_as_non_root, Some(true));
    assert!(context.run_as_user.is_some_and(|user| user != 0));
    let seccomp = context.seccomp_profile.as_ref().expect("a profile");
    assert_eq!(seccomp.type_, "RuntimeDefault");
    let context = only_container(&pod).security_context.as_ref();
    let context = context.expect("a context");
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = serde_json::to_value(&context.capabilities).expect("it can be written");
    assert_eq!(capabilities, json!({"drop": ["ALL"]}));
}

#[test]
fn the_controller_writes_only_what_it_decided() {
    let mut writes = BTreeSet::new();
    for (kind, scope) in [("ClusterRole", "cluster"), ("Role", "own namespace")] {
        let role = files::object(kind, "postern-controller");
        for rule in role["rules"].as_array().expect("rules") {
            let names = |key: &str| -> Vec<String> {
                let values = rule[key].as_array().into_iter().flatten();
                values
                    .map(|it| it.as_str().unwrap_or_default().to_owned())
                    .collect()
            };
            for verb in names("verbs") {
                assert_ne!(verb, "*");
                if !["get", "list", "watch"].contains(&verb.as_str()) {
                    for resource in names("resources") {
                        assert_ne!(resource, "*");
                        let only = names("resourceNames").join(",");
                        writes.insert(format!("{scope}: {verb} {resource} {only}"));
                    }
                }
            }
        }
    }
    let expected = [
        "cluster: create configmaps ",
        "cluster: create events ",
        "cluster: create subjectaccessreviews ",
        "cluster: create tokenreviews ",
        "cluster: patch configmaps postern-ca",
        "cluster: patch connectors/status ",
        "own namespace: create secrets ",
    ];
    assert_eq!(writes, expected.map(str::to_owned).into());
}

#[test]
fn the_kubelet_waits_as_long_as_the_controller_may_take() {
    let pod = controller();
    let probe = only_container(&pod).liveness_probe.as_ref();
    let timeout = probe.expect("a probe").timeout_seconds;
    // It answers after five seconds that its event loop does not.
    assert!(timeout.is_some_and(|seconds| seconds > 5));
}

#[test]
fn the_controller_watches_what_decides_over_grants() {
    let role = files::object("ClusterRole", "postern-controller");
    let rules = role["rules"].as_array().expect("rules");
    for (group, resource) in [
        ("connectors.postern.dev", "connectors"),
        ("connectors.postern.dev", "connectorclasses"),
        ("", "secrets"),
        ("", "pods"),
        ("rbac.authorization.k8s.io", "roles"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ] {
        let has = |list: &Value, wanted: &str| {
            let list = list.as_array().into_iter().flatten();
            list.into_iter().any(|it| it == wanted)
        };
        for verb in ["list", "watch"] {
            let allows = |rule: &Value| {
                has(&rule["apiGroups"], group)
                    && has(&rule["resources"], resource)
                    && has(&rule["verbs"], verb)
                    && rule["resourceNames"].is_null()
            };
            assert!(rules.iter().any(allows), "{verb} {resource}");
        }
    }
}

#[test]
fn using_a_connector_is_a_right_of_its_own() {
    let role = read::<ClusterRole>(&files::object("ClusterRole", "postern-connector-user"));
    let labels = role.metadata.labels.unwrap_or_default();
    let aggregated =
        |to: &str| labels.contains_key(&format!("rbac.authorization.k8s.io/aggregate-to-{to}"));
    assert!(aggregated("admin") && aggregated("edit") && !aggregated("view"));
    let [rule] = &role.rules.unwrap_or_default()[..] else {
        panic!("one rule");
    };
    assert_eq!(
        rule.resources.as_deref(),
        Some(&["connectors/proxy".to_owned()][..])
    );
    assert_eq!(rule.verbs, ["get"]);
}
