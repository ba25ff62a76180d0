//! Go templates in probes.
//!
//! A template sees `.Connector` with the names of Go's structs, and `.Secret.StringData`
//! with the decoded values; `.Secret` is nil when no Secret is bound.

use std::collections::{BTreeMap, HashMap};

use gtmpl_ng::{Context, Limits, Template, Value};
use proxy_common::api::{ObjectReference, Param};
use zeroize::{Zeroize as _, Zeroizing};

use super::functions;
use crate::state::{Connector, Origin, SecretData};

/// Longest result, in bytes; a request line or header beyond this is refused anyway.
const MAX_OUTPUT: usize = 64 << 10;

/// What the templates of one Connector see.
#[derive(Clone, Debug)]
pub(super) struct Data {
    connector: Value,
    secret: Option<SecretData>,
}

impl Data {
    /// `auth_params` are `spec.auth.params` with the defaults of the probe.
    pub(super) fn new(connector: &Connector, origin: &Origin, auth_params: &[Param]) -> Self {
        Self {
            connector: describe(connector, origin, auth_params),
            secret: origin.secret.clone(),
        }
    }

    /// The same without the Secret.
    pub(super) fn without_secret(&self) -> Self {
        Self {
            secret: None,
            ..self.clone()
        }
    }

    /// Whether there is a Secret to be seen.
    pub(super) fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// Renders a template, without white space around the result.
    ///
    /// The error never has a value of the Secret in it.
    pub(super) fn render(&self, text: &str) -> Result<Zeroizing<String>, String> {
        let mut template = Template::with_limits(Limits::default().with_output_bytes(MAX_OUTPUT));
        template.add_funcs(functions::ALL);
        template.parse(text).map_err(|error| error.to_string())?;
        let secret = self.secret.as_ref();
        let mut result = template.render(&self.context(secret.map(|it| string_data(it, false))));
        if let Ok(result) = &mut result {
            let trimmed = Zeroizing::new(result.trim().to_owned());
            result.zeroize();
            return Ok(trimmed);
        }
        // The engine quotes the values it fails on. Failing again with other values in the
        // Secret says the same, safely.
        let masked = self.context(secret.map(|it| string_data(it, true)));
        let unsaid = || "it cannot be rendered with the values of this Secret".to_owned();
        Err(template
            .render(&masked)
            .err()
            .map_or_else(unsaid, |error| error.to_string()))
    }

    fn context(&self, string_data: Option<Value>) -> Context {
        let secret = string_data.map_or(Value::Nil, |data| object([("StringData", data)]));
        Context::from(object([
            ("Connector", self.connector.clone()),
            ("Secret", secret),
        ]))
    }
}

/// The text values of a Secret, or a stand-in for each of them.
fn string_data(secret: &SecretData, masked: bool) -> Value {
    let values = secret.keys().filter_map(|key| {
        let text = secret.text(key)?;
        Some((
            key.to_owned(),
            Value::from(if masked { "REDACTED" } else { text }),
        ))
    });
    Value::Map(values.collect())
}

fn describe(connector: &Connector, origin: &Origin, auth_params: &[Param]) -> Value {
    let metadata = &origin.manifest.metadata;
    let spec = &origin.manifest.spec;
    let auth = spec.auth.as_ref();
    let secret_ref = auth.and_then(|auth| auth.secret_ref.as_ref());
    let auth = object([
        ("Name", origin.auth_type.clone().unwrap_or_default().into()),
        (
            "SecretRef",
            secret_ref.map_or(Value::Nil, |it| reference(it, &connector.namespace)),
        ),
        ("Params", params(auth_params)),
    ]);
    let name = Value::from(&connector.name);
    let namespace = Value::from(&connector.namespace);
    let (labels, annotations) = (map(&metadata.labels), map(&metadata.annotations));
    let object_meta = object([
        ("Name", name.clone()),
        ("Namespace", namespace.clone()),
        ("Labels", labels.clone()),
        ("Annotations", annotations.clone()),
    ]);
    let spec = object([
        ("ConnectorClassName", Value::from(&connector.class)),
        ("Address", spec.address.clone().unwrap_or_default().into()),
        ("AddressExtensions", params(&origin.address_extensions)),
        ("Auth", auth),
        ("Params", params(&origin.params)),
    ]);
    object([
        ("Name", name),
        ("Namespace", namespace),
        ("Labels", labels),
        ("Annotations", annotations),
        ("ObjectMeta", object_meta),
        ("Spec", spec),
    ])
}

fn reference(reference: &ObjectReference, namespace: &str) -> Value {
    object([
        ("Name", reference.name.clone().unwrap_or_default().into()),
        ("Namespace", namespace.into()),
    ])
}

fn params(params: &[Param]) -> Value {
    let item = |param: &Param| {
        let text = param.value.as_str().unwrap_or_default();
        object([
            ("Name", Value::from(&param.name)),
            (
                "Value",
                object([("Type", "string".into()), ("StringVal", text.into())]),
            ),
        ])
    };
    Value::Array(params.iter().map(item).collect())
}

fn map(entries: &BTreeMap<String, String>) -> Value {
    Value::Map(
        entries
            .iter()
            .map(|(key, value)| (key.clone(), value.into()))
            .collect(),
    )
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(HashMap::from(
        fields.map(|(name, value)| (name.to_owned(), value)),
    ))
}
