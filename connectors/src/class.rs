//! The classes that come with Postern, and those of the manifests.

use std::collections::HashMap;
use std::sync::Arc;

use proxy_common::api::{AuthType, ConnectorClass, ProtocolName};

use super::Protocol;
use super::error::{Findings, Problem, StateError};
use super::generator;
use super::manifest::{Manifests, Placed};

/// The manifests of the built-in classes, by file name.
const BUILT_IN: &[(&str, &str)] = &[
    (
        "generic-basic.yaml",
        include_str!("../../manifests/classes/generic-basic.yaml"),
    ),
    (
        "generic-bearer.yaml",
        include_str!("../../manifests/classes/generic-bearer.yaml"),
    ),
    ("git.yaml", include_str!("../../manifests/classes/git.yaml")),
    (
        "harbor.yaml",
        include_str!("../../manifests/classes/harbor.yaml"),
    ),
    (
        "maven.yaml",
        include_str!("../../manifests/classes/maven.yaml"),
    ),
    ("npm.yaml", include_str!("../../manifests/classes/npm.yaml")),
    ("oci.yaml", include_str!("../../manifests/classes/oci.yaml")),
    (
        "pypi.yaml",
        include_str!("../../manifests/classes/pypi.yaml"),
    ),
];

/// A class, ready to be used by Connectors.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) manifest: Arc<ConnectorClass>,
    pub(super) protocol: Protocol,
}

impl Class {
    /// Validates a class.
    pub(super) fn new(manifest: Arc<ConnectorClass>, findings: &mut Findings<'_>) -> Self {
        validate(&manifest, findings);
        let protocol = match manifest.spec.protocol.unwrap_or_default() {
            ProtocolName::Http => Protocol::Http,
            ProtocolName::Oci => Protocol::Oci,
        };
        Self { manifest, protocol }
    }

    /// The accepted ways to authenticate.
    pub(super) fn auth_types(&self) -> &[AuthType] {
        self.manifest
            .spec
            .auth
            .as_ref()
            .map_or(&[], |auth| &auth.types)
    }
}

/// All classes by name.
#[derive(Debug)]
pub(super) struct Classes(HashMap<String, Class>);

impl Classes {
    /// The built-in classes and those of the manifests, which win.
    pub(super) fn new(given: Vec<Placed<ConnectorClass>>, errors: &mut Vec<StateError>) -> Self {
        let mut classes = HashMap::new();
        for class in built_in(errors) {
            insert(&mut classes, class, errors);
        }
        for class in given {
            let (name, place) = (class.name.clone(), class.place.clone());
            if insert(&mut classes, class, errors).is_some() {
                tracing::info!(class = name, from = %place, "replaces the built-in class");
            }
        }
        Self(classes)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Class> {
        self.0.get(name)
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn built_in(errors: &mut Vec<StateError>) -> Vec<Placed<ConnectorClass>> {
    let mut manifests = Manifests::default();
    for (file, text) in BUILT_IN {
        manifests.read_text(&format!("built-in class {file}").into(), text, errors);
    }
    manifests.classes
}

fn insert(
    classes: &mut HashMap<String, Class>,
    class: Placed<ConnectorClass>,
    errors: &mut Vec<StateError>,
) -> Option<Class> {
    let mut findings = Findings::new(&class.place, errors);
    classes.insert(
        class.name,
        Class::new(Arc::new(class.object), &mut findings),
    )
}

/// The rules between the fields of a class: names are unique, references lead somewhere.
fn validate(class: &ConnectorClass, findings: &mut Findings<'_>) {
    let spec = &class.spec;
    let types: &[AuthType] = spec.auth.as_ref().map_or(&[], |auth| &auth.types);
    unique(
        "spec.addressExtensions",
        spec.address_extensions.iter().map(|it| &*it.name),
        findings,
    );
    unique(
        "spec.params",
        spec.params.iter().map(|it| &*it.name),
        findings,
    );
    unique(
        "spec.auth.types",
        types.iter().map(|it| &*it.name),
        findings,
    );
    for (index, auth_type) in types.iter().enumerate() {
        let field = format!("spec.auth.types[{index}].generator.rego");
        let Some(rego) = generator(auth_type) else {
            continue;
        };
        if spec.protocol == Some(ProtocolName::Oci) {
            findings.add(
                field,
                Problem::Unsupported {
                    what: "a generator in a class of protocol OCI".to_owned(),
                    instead: "leave it out, or use protocol HTTP",
                },
            );
        } else if let Err(error) = generator::check(rego) {
            findings.add(field, Problem::Rule(error.to_string()));
        }
    }
    for (index, probe) in spec.auth_probes.iter().enumerate() {
        let field = format!("spec.authProbes[{index}].authName");
        if !types.iter().any(|auth| auth.name == probe.auth_name) {
            let names = names(types);
            findings.add(
                field,
                Problem::Reference(format!(
                    "there is no authentication type `{}` in this class: use one of {names}",
                    probe.auth_name
                )),
            );
        } else if spec.auth_probes[..index]
            .iter()
            .any(|other| other.auth_name == probe.auth_name)
        {
            findings.add(field, given_twice(&probe.auth_name));
        }
    }
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a str>, findings: &mut Findings<'_>) {
    let mut seen = Vec::new();
    for (index, name) in names.enumerate() {
        if seen.contains(&name) {
            findings.add(format!("{list}[{index}].name"), given_twice(name));
        }
        seen.push(name);
    }
}

/// The generator of an authentication type.
pub(super) fn generator(auth_type: &AuthType) -> Option<&str> {
    auth_type.generator.as_ref()?.rego.as_deref()
}

/// A name that must be unique in its list.
pub(super) fn given_twice(name: &str) -> Problem {
    Problem::Rule(format!("`{name}` is given twice: keep one of them"))
}

/// The names of authentication types, for errors.
pub(super) fn names(types: &[AuthType]) -> String {
    let names: Vec<&str> = types.iter().map(|auth| &*auth.name).collect();
    names.join(", ")
}
