//! TLS towards upstreams: verification is never optional.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    sign::{CertifiedKey, SingleCertAndKey},
};

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

/// Client configurations for an upstream; they share their session cache.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Offers HTTP/2 and HTTP/1.1.
    pub any: Arc<ClientConfig>,
    /// Offers HTTP/2 alone.
    pub h2: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    pub http1: Arc<ClientConfig>,
}

/// How Postern meets servers on behalf of one Connector.
#[derive(Clone, Debug)]
pub struct ConnectorTls {
    /// At the Connector's own addresses: with its certificate, if it has one.
    pub own: UpstreamTls,
    /// At all others: the same trust, and never a certificate. Sessions of the one are not
    /// resumed by the other, so nobody is known by a certificate that was not shown.
    pub elsewhere: UpstreamTls,
}

impl ConnectorTls {
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
        let store = Arc::new(store);
        let elsewhere = UpstreamTls::new(Arc::clone(&store), None)?;
        let own = match connector.certificate() {
            None => elsewhere.clone(),
            Some(certificate) => {
                let shown =
                    certificate
                        .certified()
                        .map_err(|fault| TlsError::ClientCertificate {
                            connector: connector.to_string(),
                            fault,
                        })?;
                UpstreamTls::new(store, Some(shown))?
            }
        };
        Ok(Self { own, elsewhere })
    }

    /// Trusts nobody, so that no connection comes about.
    pub fn of_nobody() -> Result<Self, TlsError> {
        let nobody = UpstreamTls::new(RootCertStore::empty().into(), None)?;
        Ok(Self {
            own: nobody.clone(),
            elsewhere: nobody,
        })
    }
}

impl UpstreamTls {
    /// Trusts `roots`, and shows a certificate to whoever asks for one.
    fn new(roots: Arc<RootCertStore>, shown: Option<CertifiedKey>) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(shown) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
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
