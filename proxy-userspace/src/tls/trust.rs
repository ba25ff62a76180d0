//! TLS towards upstreams: verification is never optional.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};

use super::{H2, HTTP1, TlsError};
use crate::state::Connector;

/// The system's certificate authorities.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads them from where the system, or `SSL_CERT_FILE` and `SSL_CERT_DIR`, keep them.
    /// What cannot be read is logged and left out.
    pub fn system() -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        for error in loaded.errors {
            tracing::warn!("cannot read a trusted certificate: {error}");
        }
        let mut store = RootCertStore::empty();
        let (_, ignored) = store.add_parsable_certificates(loaded.certs);
        if ignored > 0 {
            tracing::debug!("ignored {ignored} trusted certificates that do not parse");
        }
        Self(Arc::new(store))
    }

    /// No authority at all, for tests.
    pub fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}

/// Client configurations for one Connector's upstream; they share their session cache.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Offers HTTP/2 and HTTP/1.1.
    pub any: Arc<ClientConfig>,
    /// Offers HTTP/2 alone.
    pub h2: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    pub http1: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Trusts the system's authorities and the Connector's own.
    pub fn new(roots: &Roots, connector: &Connector) -> Result<Self, TlsError> {
        let mut store = RootCertStore::clone(&roots.0);
        for root in connector.extra_roots.iter() {
            store
                .add(root.clone())
                .map_err(|source| TlsError::ConnectorCa {
                    connector: connector.to_string(),
                    source,
                })?;
        }
        Self::with(store)
    }

    /// Trusts nobody, so that no connection comes about.
    pub fn of_nobody() -> Result<Self, TlsError> {
        Self::with(RootCertStore::empty())
    }

    fn with(store: RootCertStore) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            any: offering(&[H2, HTTP1]),
            h2: offering(&[H2]),
            http1: offering(&[HTTP1]),
        })
    }
}
