//! The whole way from text to Connectors.

mod certificates;
mod errors;
mod limits;
mod loading;
mod secrecy;
mod secrets;

use super::*;

/// A Connector's manifest with this `spec`, as flow or indented block YAML.
fn connector(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: \
         {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

/// A `ConnectorClass`'s manifest with this `spec`.
fn class(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: connectors.postern.dev/v1alpha1\nkind: ConnectorClass\nmetadata: \
         {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

/// A Secret's manifest with these fields, as lines.
fn secret(name: &str, fields: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{fields}\n---\n")
}

/// The Secret `login`, as most classes want it.
fn login() -> String {
    secret(
        "login",
        "type: kubernetes.io/basic-auth\nstringData: {username: me, password: hunter2}",
    )
}

/// `spec` of a Connector that is sound together with [`login`].
const SOUND: &str = "{connectorClassName: generic-basic, address: https://api.example.com, \
                     auth: {secretRef: {name: login}}}";

fn faults(text: &str) -> Vec<String> {
    match load_text("a.yaml", text) {
        Ok(loaded) => panic!("no fault found in {text}, but {loaded:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn loaded(text: &str) -> Loaded {
    load_text("a.yaml", text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}
