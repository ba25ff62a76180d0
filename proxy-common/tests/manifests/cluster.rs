//! The definitions of the kinds: what they promise, and that those in the repository are
//! those that the types make.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaPropsOrBool,
};
use kube::core::DeserializeGuard;
use kube::{CustomResourceExt, Resource};
use proxy_common::api::{self, cluster};
use serde_json::{Value, json};

use crate::{files, schema};

fn definition(kind: &str) -> CustomResourceDefinition {
    let mut definitions = cluster::definitions().into_iter();
    let found = definitions.find(|it| it.spec.names.kind == kind);
    found.unwrap_or_else(|| panic!("no definition of {kind}"))
}

/// Name and path of each printer column.
fn columns(definition: &CustomResourceDefinition) -> Vec<(String, String)> {
    let columns = definition.spec.versions[0]
        .additional_printer_columns
        .clone();
    let columns = columns.into_iter().flatten();
    columns.map(|it| (it.name, it.json_path)).collect()
}

#[test]
fn the_repository_has_what_the_types_make() {
    for definition in cluster::definitions() {
        let file = format!("crds/{}.yaml", definition.spec.names.plural);
        let kept = files::documents(&files::root().join(&file));
        let made = serde_json::to_value(&definition).expect("it can be written");
        assert!(
            kept == [made],
            "manifests/{file} is out of date: run `cargo xtask manifests`"
        );
    }
}

#[test]
fn names_and_scope() {
    for (kind, plural, scope) in [
        ("Connector", "connectors", "Namespaced"),
        ("ConnectorClass", "connectorclasses", "Cluster"),
    ] {
        let definition = definition(kind);
        let spec = &definition.spec;
        assert_eq!(spec.group, api::GROUP);
        assert_eq!(
            definition.metadata.name,
            Some(format!("{plural}.{}", api::GROUP))
        );
        assert_eq!(spec.names.plural, plural);
        assert_eq!(
            spec.names.singular.as_deref(),
            Some(kind.to_lowercase().as_str())
        );
        assert_eq!(
            spec.names.categories.as_deref(),
            Some(&["postern".to_owned()][..])
        );
        assert_eq!(spec.scope, scope);
        let [version] = &spec.versions[..] else {
            panic!("one version");
        };
        assert_eq!(version.name, api::VERSION);
        assert!(version.served && version.storage);
        let subresources = version.subresources.as_ref().expect("subresources");
        assert!(subresources.status.is_some() && subresources.scale.is_none());
    }
    assert_eq!(cluster::Connector::api_version(&()), api::API_VERSION);
    assert_eq!(
        cluster::ConnectorClass::crd_name(),
        "connectorclasses.connectors.postern.dev"
    );
}

#[test]
fn printer_columns() {
    let ready = r#".status.conditions[?(@.type=="Ready")]"#;
    let common = [
        ("Ready".to_owned(), format!("{ready}.status")),
        ("Reason".to_owned(), format!("{ready}.reason")),
        ("Age".to_owned(), ".metadata.creationTimestamp".to_owned()),
    ];
    let own = [
        ("Class".to_owned(), ".spec.connectorClassName".to_owned()),
        ("Address".to_owned(), ".spec.address".to_owned()),
    ];
    assert_eq!(columns(&definition("ConnectorClass")), common);
    let all: Vec<_> = own.into_iter().chain(common).collect();
    assert_eq!(columns(&definition("Connector")), all);
}

#[test]
fn lists_and_maps_merge_as_documented() {
    let (connector, class) = (schema::of("Connector"), schema::of("ConnectorClass"));
    for (schema, atomic) in [
        (
            &connector,
            &["spec.addressExtensions", "spec.params", "spec.auth.params"][..],
        ),
        (
            &class,
            &[
                "spec.addressExtensions",
                "spec.params",
                "spec.auth.types[].params",
                "spec.authProbes[].params",
                "spec.authProbes[].probe.http.httpHeaders",
                "spec.livenessProbe.http.httpHeaders",
                "spec.configurations[].params",
            ],
        ),
    ] {
        for path in atomic {
            let list = schema::at(schema, path);
            assert_eq!(
                list.x_kubernetes_list_type.as_deref(),
                Some("atomic"),
                "{path}"
            );
        }
        let conditions = schema::at(schema, "status.conditions");
        assert_eq!(conditions.x_kubernetes_list_type, None);
    }
    for (path, key) in [("spec.auth.types", "name"), ("spec.authProbes", "authName")] {
        let list = schema::at(&class, path);
        assert_eq!(
            list.x_kubernetes_list_type.as_deref(),
            Some("map"),
            "{path}"
        );
        assert_eq!(
            list.x_kubernetes_list_map_keys,
            Some(vec![key.to_owned()]),
            "{path}"
        );
        let items = schema::at(&class, &format!("{path}[]"));
        assert!(
            items
                .required
                .is_some_and(|it| it.contains(&key.to_owned())),
            "{path}"
        );
    }
    let reference = schema::at(&connector, "spec.auth.secretRef");
    assert_eq!(reference.x_kubernetes_map_type.as_deref(), Some("atomic"));
}

#[test]
fn only_what_the_reference_calls_free_is_free() {
    let mut free = Vec::new();
    for kind in ["Connector", "ConnectorClass"] {
        schema::walk(&schema::of(kind), kind, &mut |path, part| {
            if part.x_kubernetes_preserve_unknown_fields.is_some() {
                assert_eq!(part.type_, None, "{path}");
                free.push(path.to_owned());
            }
        });
    }
    assert_eq!(
        free,
        [
            "Connector.spec.addressExtensions[].value",
            "Connector.spec.auth.params[].value",
            "Connector.spec.params[].value",
            "ConnectorClass.spec.address.default",
            "ConnectorClass.spec.addressExtensions[].default",
            "ConnectorClass.spec.api.openapi",
            "ConnectorClass.spec.auth.types[].params[].default",
            "ConnectorClass.spec.authProbes[].params[].default",
            "ConnectorClass.spec.configurations[].params[].default",
            "ConnectorClass.spec.params[].default",
        ]
    );
}

#[test]
fn nothing_is_mandatory_in_a_connector_but_what_a_param_is() {
    schema::walk(&schema::of("Connector"), "", &mut |path, part| {
        let expected: &[&str] = match path {
            "" => &["spec"],
            ".spec.addressExtensions[]" | ".spec.auth.params[]" | ".spec.params[]" => {
                &["name", "value"]
            }
            ".status.conditions[]" => &["status", "type"],
            _ => &[],
        };
        assert_eq!(part.required.as_deref().unwrap_or_default(), expected);
    });
}

#[test]
fn our_additions_are_enumerations() {
    let (connector, class) = (schema::of("Connector"), schema::of("ConnectorClass"));
    for (schema, path, expected) in [
        (
            &connector,
            "spec.interception.mode",
            json!(["Transparent", "Forward", "Reverse"]),
        ),
        (
            &connector,
            "spec.interception.failurePolicy",
            json!(["Closed", "Open"]),
        ),
        (
            &connector,
            "spec.interception.clientAuthorization",
            json!(["Replace", "Keep", "Reject"]),
        ),
        (
            &connector,
            "spec.interception.egress",
            json!(["Pod", "Node"]),
        ),
        (
            &connector,
            "spec.interception.onUntrustedCA",
            json!(["Fail", "Passthrough"]),
        ),
        (&class, "spec.protocol", json!(["HTTP", "OCI"])),
        (
            &class,
            "spec.livenessProbe.http.scheme",
            json!(["http", "https"]),
        ),
        (
            &class,
            "spec.livenessProbe.http.method",
            json!(["GET", "POST"]),
        ),
    ] {
        let part = schema::at(schema, path);
        assert_eq!(part.type_.as_deref(), Some("string"), "{path}");
        assert_eq!(
            serde_json::to_value(part.enum_).expect("it can be written"),
            expected,
            "{path}"
        );
    }
}

/// The rules that an API server refuses a definition by.
#[test]
fn schemas_are_structural() {
    for kind in ["Connector", "ConnectorClass"] {
        schema::walk(&schema::of(kind), kind, &mut |path, part| {
            let free = part.x_kubernetes_preserve_unknown_fields == Some(true);
            assert!(part.type_.is_some() != free, "{path} has no type");
            assert!(
                part.all_of.is_none()
                    && part.any_of.is_none()
                    && part.one_of.is_none()
                    && part.not.is_none(),
                "{path} is a choice"
            );
            assert!(part.ref_path.is_none(), "{path} is a reference");
            assert_eq!(part.default, None, "{path} has a default");
            assert_eq!(part.nullable, None, "{path} would store nulls");
            assert!(
                part.properties.is_none() || part.additional_properties.is_none(),
                "{path} has fixed and free names"
            );
            assert!(
                !matches!(
                    part.additional_properties,
                    Some(JSONSchemaPropsOrBool::Bool(_))
                ),
                "{path} allows or forbids everything"
            );
            let type_ = part.type_.as_deref();
            assert_eq!(type_ == Some("array"), part.items.is_some(), "{path}");
            assert!(
                type_ != Some("object")
                    || part.properties.is_some()
                    || part.additional_properties.is_some(),
                "{path} would be pruned to nothing"
            );
        });
    }
}

#[test]
fn descriptions_are_prose() {
    for kind in ["Connector", "ConnectorClass"] {
        schema::walk(&schema::of(kind), kind, &mut |path, part| {
            let text = part.description.as_deref().unwrap_or_default();
            assert!(!text.contains(['[', ']', '`', '\n']), "{path}: {text}");
            assert!(!text.contains("::"), "{path}: {text}");
            assert_eq!(part.title, None, "{path}");
            // Members of maps are described by the map.
            assert!(
                !text.is_empty() || path.ends_with("{}") || path.ends_with("[]"),
                "{path} is not described"
            );
        });
    }
}

fn connector(spec: &Value) -> Value {
    json!({
        "apiVersion": api::API_VERSION,
        "kind": "Connector",
        "metadata": {"name": "n", "namespace": "ns", "managedFields": [], "newInKubernetes": 1},
        "spec": spec,
    })
}

#[test]
fn one_object_from_the_future_is_one_error() {
    let read = |spec: &Value| -> DeserializeGuard<cluster::Connector> {
        serde_json::from_value(connector(spec)).expect("the list goes on")
    };
    let sound = read(&json!({"address": "https://a.example.com"}))
        .0
        .expect("it is sound");
    assert_eq!(sound.metadata.namespace.as_deref(), Some("ns"));
    assert_eq!(sound.spec.address.as_deref(), Some("https://a.example.com"));
    for spec in [
        json!({"later": true}),
        json!({"interception": {"mode": "Telepathic"}}),
    ] {
        let fault = read(&spec).0.expect_err("it is not understood");
        assert_eq!(fault.metadata.name.as_deref(), Some("n"));
    }
}
