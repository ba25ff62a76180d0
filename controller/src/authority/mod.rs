//! The certificate authority of the cluster.
//!
//! A root whose key is in the Secret [`ROOT_SECRET`] and nowhere else. Below it are the
//! certificate of the controller's own listener, and one authority for each node, limited to
//! the hosts that the node's workloads are granted. What is to be trusted is in the `ConfigMap`
//! [`BUNDLE`] of every namespace that needs it.

mod bundle;
mod error;
mod node;
mod root;
mod server;
mod store;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use rustls_pki_types::CertificateDer;

use crate::model::Key;

pub use bundle::{BUNDLE, BUNDLE_KEY, RESYNC, keep_bundles, write_bundle};
pub use error::{AuthorityError, BundleError, Replaced, RootFault, SignError};
pub use node::{HOSTS, NODE_LIFE, Signed};
pub use root::ROOT_LIFE;
pub use server::{SERVER_LIFE, ServerCertificate};
pub use store::ROOT_SECRET;

use root::Root;

/// The cluster's root, and what is signed by it.
pub struct Authority {
    namespace: String,
    root: Root,
}

impl Authority {
    /// Reads the root from its Secret in the controller's namespace, or makes both. Replicas
    /// that start together agree on one root: the Secret is created once.
    ///
    /// Waits, with pauses, for an API server that does not answer or refuses; so a caller
    /// that may have to stop selects on that as well. Fails when the Secret is there and of
    /// no use: it is never replaced, because that would take trust from all workloads.
    pub async fn load_or_create(client: &Client, namespace: &str) -> Result<Self, AuthorityError> {
        let secret = Key::new(namespace, ROOT_SECRET);
        let root = store::load_or_create(client, &secret).await?;
        root.warn_about_its_end(&secret);
        Ok(Self {
            namespace: namespace.to_owned(),
            root,
        })
    }

    /// Waits until the Secret does not hold this root any more, which it looks at again after
    /// `every` ([`RESYNC`]). Whoever goes on with the old root serves nobody who trusts the
    /// new one.
    pub async fn until_replaced(&self, client: &Client, every: Duration) -> AuthorityError {
        let secret = Key::new(&self.namespace, ROOT_SECRET);
        let how = store::until_replaced(client, &secret, &self.root, every).await;
        AuthorityError::Replaced {
            namespace: secret.namespace,
            name: secret.name,
            how,
        }
    }

    /// The root's certificate, DER.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        &self.root.certificate
    }

    /// The root's certificate, PEM: what clients trust.
    pub fn root_pem(&self) -> &str {
        &self.root.pem
    }

    /// The controller's own namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A certificate for the controller's listener.
    pub fn server_certificate(self: &Arc<Self>) -> Result<Arc<ServerCertificate>, AuthorityError> {
        ServerCertificate::new(Arc::clone(self))
    }
}
