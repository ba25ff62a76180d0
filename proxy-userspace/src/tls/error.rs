use time::OffsetDateTime;

use crate::state::CertificateFault;

/// Why certificates cannot be made or trust not be established.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate could not be made.
    #[error("cannot make a certificate for {host}: {source}")]
    Mint {
        /// For which host.
        host: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority is not valid at this time.
    #[error(
        "cannot make a certificate for {host} at {now}: this node's certificate authority is \
         valid from {start} to {end}; check the node's clock, and whether the controller answers"
    )]
    Untimely {
        /// For which host.
        host: String,
        /// The time, by the node's clock.
        now: OffsetDateTime,
        /// Since when the authority is valid.
        start: OffsetDateTime,
        /// Until when.
        end: OffsetDateTime,
    },
    /// Nobody has signed this node's authority yet.
    #[error("no certificate can be made before the controller has signed this node's authority")]
    NoAuthority,
    /// The system has no random numbers.
    #[error("the system has no random numbers for a certificate")]
    Random,
    /// The TLS library refused a configuration.
    #[error("cannot configure TLS: {0}")]
    Config(#[from] rustls::Error),
    /// A Connector's own CA certificate cannot be used.
    #[error("the CA certificates of connector {connector} cannot be used: {source}")]
    ConnectorCa {
        /// Namespace and name.
        connector: String,
        /// Why.
        source: rustls::Error,
    },
    /// A Connector's own certificate cannot be used.
    #[error("the client certificate of connector {connector} cannot be used: {key} {fault}", key = fault.key())]
    ClientCertificate {
        /// Namespace and name.
        connector: String,
        /// Why.
        fault: CertificateFault,
    },
}
