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
}
