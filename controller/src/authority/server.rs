//! The certificate of the controller's listener.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use connectors::pki::{common_name, serial, validity};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::sleep;
use tracing::{info, warn};
use zeroize::Zeroize as _;

use super::Authority;
use super::error::AuthorityError;

/// Life of the certificate; it is replaced after half of it.
pub const SERVER_LIFE: Duration = Duration::from_hours(30 * 24);
/// How often it is looked at. Clocks are set and machines are suspended, so one long sleep
/// would not do.
const LOOK: Duration = Duration::from_mins(10);
/// Name of the Service that agents connect to.
const SERVICE: &str = "postern-controller";

/// The listener's certificate, replaced while it serves. Its key never leaves memory.
pub struct ServerCertificate {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Issued>,
}

struct Issued {
    key: Arc<CertifiedKey>,
    replace_at: SystemTime,
}

impl ServerCertificate {
    pub(super) fn new(authority: Arc<Authority>) -> Result<Arc<Self>, AuthorityError> {
        let provider = Arc::new(default_provider());
        let issued = issue(&authority, &provider, SystemTime::now())?;
        Ok(Arc::new(Self {
            authority,
            provider,
            current: ArcSwap::from_pointee(issued),
        }))
    }

    /// TLS 1.2 and 1.3 for HTTP/2 with whatever certificate is current.
    pub fn tls_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Replaces the certificate if half of its life is over; says whether it was.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        if now < self.current.load().replace_at {
            return Ok(false);
        }
        let issued = issue(&self.authority, &self.provider, now)?;
        self.current.store(Arc::new(issued));
        Ok(true)
    }

    /// Keeps the certificate fresh; does not return.
    pub async fn keep(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            match self.renew_if_due(SystemTime::now()) {
                Ok(true) => info!("replaced the certificate of the agents' listener"),
                Ok(false) => {}
                Err(error) => warn!("the agents' listener keeps its certificate: {error}"),
            }
        }
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerCertificate")
            .finish_non_exhaustive()
    }
}

fn issue(
    authority: &Authority,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<Issued, AuthorityError> {
    let failed = |source| AuthorityError::Make {
        whose: "the agents' listener",
        source,
    };
    let mut key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names(&authority.namespace)).map_err(failed)?;
    params.distinguished_name = common_name(SERVICE);
    (params.not_before, params.not_after) = validity(SERVER_LIFE);
    params.not_after = params.not_after.min(authority.root.not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial().map_err(|_| AuthorityError::Random)?);
    let certificate = params
        .signed_by(&key, &authority.root.issuer)
        .map_err(failed)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    key.zeroize();
    let key = CertifiedKey::from_der(vec![certificate.der().clone()], der, provider)?;
    Ok(Issued {
        key: Arc::new(key),
        replace_at: now + SERVER_LIFE / 2,
    })
}

/// The names under which the Service is found. A cluster may have a domain of its own; agents
/// use the one that ends in `.svc`.
fn names(namespace: &str) -> Vec<String> {
    vec![
        SERVICE.to_owned(),
        format!("{SERVICE}.{namespace}"),
        format!("{SERVICE}.{namespace}.svc"),
        format!("{SERVICE}.{namespace}.svc.cluster.local"),
    ]
}
