//! Which lists are merged item by item and which maps are one value: what server-side
//! apply and strategic merge need to know of a type.

use serde_json::Value;

use crate::resource::Resource;

/// How a list is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List<'a> {
    /// As one value.
    Atomic,
    /// As a set of values.
    Set,
    /// Item by item; items are told apart by these fields.
    Map(Vec<&'a str>),
}

/// The shape of a value inside an object.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// Part of a custom resource, with its schema if it has one.
    Custom(Option<&'a Value>),
    /// Part of a built-in type, known by its name and that of what holds it.
    Builtin {
        /// The field that holds it.
        parent: &'a str,
        /// The field.
        field: &'a str,
    },
}

impl<'a> Shape<'a> {
    /// The shape of a whole object.
    pub fn of(resource: &'a Resource) -> Self {
        match &resource.custom {
            Some(custom) => Self::Custom(Some(&custom.schema)),
            None => Self::Builtin { parent: "", field: "" },
        }
    }

    /// The shape of the object's field; every object has the same metadata.
    pub fn top(self, name: &'a str) -> Self {
        if name == "metadata" { Self::Builtin { parent: "", field: "metadata" } } else { self.field(name) }
    }

    /// The shape of a field.
    pub fn field(self, name: &'a str) -> Self {
        match self {
            Self::Custom(schema) => Self::Custom(schema.and_then(|schema| {
                let property = schema.get("properties").and_then(|properties| properties.get(name));
                property.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object()))
            })),
            Self::Builtin { field, .. } => Self::Builtin { parent: field, field: name },
        }
    }

    /// The shape of a list's items.
    pub fn items(self) -> Self {
        match self {
            Self::Custom(schema) => Self::Custom(schema.and_then(|schema| schema.get("items"))),
            builtin @ Self::Builtin { .. } => builtin,
        }
    }

    /// How the value is merged if it is a list.
    pub fn list(self) -> List<'a> {
        match self {
            Self::Custom(None) => List::Atomic,
            Self::Custom(Some(schema)) => match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("set") => List::Set,
                Some("map") => {
                    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                    List::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
                }
                _ => List::Atomic,
            },
            Self::Builtin { parent, field } => builtin_list(parent, field),
        }
    }

    /// Whether the value is merged as a whole if it is a map.
    pub fn atomic_map(self) -> bool {
        match self {
            Self::Custom(schema) => {
                schema.and_then(|schema| schema.get("x-kubernetes-map-type")).and_then(Value::as_str) == Some("atomic")
            }
            Self::Builtin { field, .. } => matches!(
                field,
                "selector"
                    | "labelSelector"
                    | "namespaceSelector"
                    | "nodeSelector"
                    | "roleRef"
                    | "secretKeyRef"
                    | "configMapKeyRef"
                    | "fieldRef"
                    | "resourceFieldRef"
                    | "involvedObject"
                    | "ownerReferences"
                    | "imagePullSecrets"
            ),
        }
    }

    /// The value of an item's key field: its own, or the default.
    pub fn key_value(self, item: &Value, key: &str) -> Value {
        if let Some(value) = item.get(key) {
            return value.clone();
        }
        match self {
            Self::Custom(schema) => schema
                .and_then(|schema| schema.get("properties")?.get(key)?.get("default"))
                .cloned()
                .unwrap_or(Value::Null),
            Self::Builtin { .. } if key == "protocol" => Value::from("TCP"),
            Self::Builtin { .. } => Value::Null,
        }
    }
}

fn builtin_list<'a>(parent: &str, field: &str) -> List<'a> {
    let keys = match (parent, field) {
        ("metadata", "finalizers") => return List::Set,
        ("metadata", "ownerReferences") => vec!["uid"],
        (_, "volumeMounts") => vec!["mountPath"],
        (_, "volumeDevices") => vec!["devicePath"],
        ("containers" | "initContainers", "ports") => vec!["containerPort", "protocol"],
        ("spec", "ports") => vec!["port", "protocol"],
        (_, "conditions") | ("status", "addresses") => vec!["type"],
        (_, "hostAliases" | "podIPs" | "hostIPs") => vec!["ip"],
        (_, "topologySpreadConstraints") => vec!["topologyKey", "whenUnsatisfiable"],
        (
            _,
            "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets"
            | "schedulingGates" | "resourceClaims" | "claims",
        )
        | ("", "secrets") => vec!["name"],
        _ => return List::Atomic,
    };
    List::Map(keys)
}
