//! Plans and checks of whole Connectors.

mod checks;
mod plans;

use super::*;
use crate::state::{Connector, Loaded, Origin, load_text};

const SECRETS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: basic}
type: kubernetes.io/basic-auth
stringData: {username: me, password: hunter2}
---
apiVersion: v1
kind: Secret
metadata: {name: bearer}
type: connectors.cpaas.io/bearer-token
stringData: {token: hunter2}
---
";

fn load(spec: &str, class: &str) -> Loaded {
    let mut text = format!(
        "{SECRETS}apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: \
         {{name: c}}\nspec: {{{spec}}}\n---\n"
    );
    if !class.is_empty() {
        text = format!(
            "{text}apiVersion: connectors.postern.dev/v1alpha1\nkind: ConnectorClass\nmetadata: \
             {{name: own}}\nspec:\n{class}\n"
        );
    }
    load_text("a.yaml", &text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn first(loaded: &Loaded) -> (&Connector, &Origin) {
    let (connector, origin) = loaded.iter().next().expect("a Connector");
    (connector, origin)
}
