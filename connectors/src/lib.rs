//! The rules that make a usable Connector of a manifest, its class and its Secrets.
//!
//! [`load`] reads files of manifests. It either returns all Connectors, or everything that
//! is wrong with the files: a typing error must not cost one run for each mistake.
//! [`cluster`] takes one Connector and the objects that it names from a cluster, and says for
//! each of them what is wrong. [`condition`] says what can be observed about a Connector.
//! With the feature `pki` there are the rules of authorities that vouch for Connectors' hosts.

mod address;
mod auth;
mod authority;
mod class;
mod client_certificate;
pub mod cluster;
pub mod condition;
mod connector;
mod docker_config;
mod error;
pub mod generator;
pub mod limits;
mod manifest;
mod params;
#[cfg(feature = "pki")]
pub mod pki;
mod resolve;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod trust;
mod yaml;

pub use address::AddressError;
pub use authority::{normal_host, split_authority};
pub use client_certificate::{
    CERTIFICATE_KEY, CertificateFault, ClientCertificate, PRIVATE_KEY_KEY, TLS, Validity,
};
pub use connector::{
    Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy, OnUntrustedCa,
    Protocol, Scheme,
};
pub use error::{LoadErrors, Place, Problem, SecretFault, StateError, YamlFault};
pub use manifest::{DEFAULT_NAMESPACE, MAX_FILE, Source};
pub use resolve::Origin;
pub use secret::{BASIC_AUTH, BEARER_TOKEN, DOCKER_CONFIG, OPAQUE, REGISTRY_TOKEN, SecretData};

use std::sync::Arc;

use manifest::Manifests;

/// Everything that a set of manifests says.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The Connectors, in the order of the files; numbered from 1.
    pub connectors: Vec<Arc<Connector>>,
    /// What each was made of, in the same order.
    pub origins: Vec<Origin>,
}

impl Loaded {
    /// Each Connector with what it was made of.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<Connector>, &Origin)> {
        self.connectors.iter().zip(&self.origins)
    }
}

/// Reads manifests: files of YAML documents with Connectors, `ConnectorClasses`, Secrets and
/// lists of them. Other objects are ignored with a warning.
///
/// Returns every fault that was found in any of the files.
pub fn load(sources: &[Source]) -> Result<Loaded, LoadErrors> {
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    for source in sources {
        manifests.read(source, &mut errors);
    }
    let names: Vec<String> = sources.iter().map(Source::to_string).collect();
    finish(manifests, &names.join(", "), errors)
}

/// The same for text that is at hand; `file` is the name that errors show.
pub fn load_text(file: &str, text: &str) -> Result<Loaded, LoadErrors> {
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    manifests.read_text(&file.into(), text, &mut errors);
    finish(manifests, file, errors)
}

fn finish(
    manifests: Manifests,
    files: &str,
    mut errors: Vec<StateError>,
) -> Result<Loaded, LoadErrors> {
    if manifests.connectors.is_empty() && errors.is_empty() {
        let place = Place::file(&files.into());
        errors.push(StateError {
            place,
            field: String::new(),
            problem: Problem::NoConnector,
        });
    }
    let resolved = resolve::resolve(manifests, &mut errors);
    if let Some(errors) = LoadErrors::new(errors) {
        return Err(errors);
    }
    let (connectors, origins) = resolved
        .into_iter()
        .map(|(connector, origin)| (Arc::new(connector), origin))
        .unzip();
    Ok(Loaded {
        connectors,
        origins,
    })
}
