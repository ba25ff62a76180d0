//! TLS towards clients.

use std::{error::Error, sync::Arc};

use rustls::{
    AlertDescription, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::SingleCertAndKey,
};

use super::{Authority, H2, HTTP1, TlsError, Untrusting, mint::Minter, tickets::Tickets};

/// Terminates the TLS of clients with certificates of the node's authority.
pub struct Interceptor {
    /// The clients that do not trust it.
    pub untrusting: Untrusting,
    minter: Arc<Minter>,
    tickets: Arc<Tickets>,
    /// Shared by all names; they differ in nothing but ALPN, and share the tickets.
    plain: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    h2: Arc<ServerConfig>,
}

impl Interceptor {
    /// An interceptor that has no certificate until it has an authority.
    pub fn new() -> Result<Self, TlsError> {
        let minter = Arc::new(Minter::new()?);
        let tickets = Arc::new(Tickets::new()?);
        let mut config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&minter) as Arc<dyn ResolvesServerCert>);
        config.ticketer = Arc::clone(&tickets) as _;
        // TLS 1.2 clients without tickets: sessions kept here would outlive their authority.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let speaking = |alpn: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            untrusting: Untrusting::default(),
            minter,
            tickets,
            http1: speaking(HTTP1),
            h2: speaking(H2),
            plain: Arc::new(config),
        })
    }

    /// From now on `authority` signs the certificates. Sessions that began with another one's
    /// are not resumed.
    pub fn set_authority(&self, authority: Authority) {
        self.minter.set_authority(authority);
        self.tickets.forget();
    }

    /// Whether the authority in force may vouch for `host`. A client that does not take a
    /// certificate for another one does as it should.
    pub fn vouches_for(&self, host: &str) -> bool {
        self.minter.vouches_for(host)
    }

    /// The configuration for `host` that speaks `alpn` and nothing else; `None` when the
    /// client offered no protocol.
    ///
    /// A client that sends no name (it sends none for an address: RFC 6066, section 3) gets
    /// the certificate of `host` all the same.
    pub fn config(
        &self,
        host: &str,
        named: bool,
        alpn: Option<&[u8]>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let config = match alpn {
            Some(H2) => &self.h2,
            Some(_) => &self.http1,
            None => &self.plain,
        };
        if !named {
            let mut fixed = ServerConfig::clone(config);
            fixed.cert_resolver = Arc::new(SingleCertAndKey::from(self.minter.leaf(host)?));
            fixed.ticketer = Arc::new(self.tickets.of_host(host));
            return Ok(Arc::new(fixed));
        }
        Ok(Arc::clone(config))
    }
}

/// Whether an error is a client's way of saying that it does not trust our certificate. With
/// TLS 1.3 that comes after the handshake, as an error of the first read.
pub fn is_distrust(error: &(dyn Error + 'static)) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateUnknown, DecryptError, UnknownCA,
        UnsupportedCertificate,
    };
    let mut next = Some(error);
    while let Some(error) = next {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref)
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        });
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return matches!(
                alert,
                UnknownCA
                    | BadCertificate
                    | CertificateUnknown
                    // Of those who trust an earlier root, which has the name of this one.
                    | DecryptError
                    | UnsupportedCertificate
                    | AccessDenied
            );
        }
        next = error.source();
    }
    false
}
