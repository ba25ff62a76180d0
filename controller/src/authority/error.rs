//! What can be wrong with the authority.

use rcgen::Error as CertificateError;
use thiserror::Error;
use time::OffsetDateTime;

/// Why there is no authority, or no certificate of it.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The Secret with the root is of no use. It is left as it is.
    #[error(
        "the root authority in Secret {namespace}/{name} cannot be used: {fault}. Restore the \
         Secret from a backup, or delete it and restart all replicas of the controller: they \
         make a new root, and pods that run have to be restarted to trust it"
    )]
    Root {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What is wrong with it.
        fault: RootFault,
    },
    /// The Secret with the root does not hold the one that is in use any more.
    #[error(
        "Secret {namespace}/{name} with the root authority {how} while the controller was \
         running. It has to start again: what it signs with the old root is trusted by nobody \
         who was given the new one"
    )]
    Replaced {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What happened to it.
        how: Replaced,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of {whose}: {source}")]
    Make {
        /// Whose certificate.
        whose: &'static str,
        /// Why.
        source: CertificateError,
    },
    /// TLS does not take a certificate that was made.
    #[error("cannot serve TLS with the controller's own certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gave no randomness.
    #[error("the system gives no random numbers, without which no certificate can be made")]
    Random,
}

/// What happened to the Secret with the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Replaced {
    /// It was deleted.
    #[error("was deleted")]
    Gone,
    /// It holds something else.
    #[error("was replaced")]
    Other,
}

/// What is wrong with a root's Secret. Nothing of its values is told.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RootFault {
    /// A key of the Secret is not there, or no text.
    #[error("it has no text under the key {0}")]
    Missing(&'static str),
    /// Not exactly one certificate.
    #[error("tls.crt has to hold one certificate in PEM, and holds {0}")]
    Certificates(usize),
    /// The certificate cannot be read.
    #[error("the certificate in tls.crt cannot be read")]
    Malformed,
    /// It is signed by somebody else.
    #[error("the certificate in tls.crt is not a root: its issuer is another authority")]
    NotARoot,
    /// It may not sign authorities.
    #[error("the certificate in tls.crt is not allowed to sign other authorities")]
    NotAnAuthority,
    /// It is not valid now.
    #[error("the certificate in tls.crt is valid from {from} to {to} only")]
    NotValid {
        /// First moment.
        from: OffsetDateTime,
        /// Last moment.
        to: OffsetDateTime,
    },
    /// The key cannot be read.
    #[error("tls.key holds no private key in PEM that can be read")]
    Key,
    /// Certificate and key do not belong together.
    #[error("the key in tls.key is not that of the certificate in tls.crt")]
    OtherKey,
}

/// Why an authority for a node was not signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The request is not one, or its sender does not have the key.
    #[error(
        "the certificate signing request of node {node} is refused: {source}. It has to be \
         PKCS #10, DER, signed with its own key"
    )]
    Request {
        /// The node.
        node: String,
        /// Why.
        source: CertificateError,
    },
    /// A key that is not used here.
    #[error("the key of node {node} has to be ECDSA on the curve P-256")]
    KeyKind {
        /// The node.
        node: String,
    },
    /// The certificate could not be made.
    #[error("cannot sign the authority of node {node}: {source}")]
    Make {
        /// The node.
        node: String,
        /// Why.
        source: CertificateError,
    },
    /// The system gave no randomness.
    #[error("the system gives no random numbers, without which no certificate can be made")]
    Random,
}

/// Why a `ConfigMap` was not written.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action} ConfigMap {namespace}/{name}: {source}")]
    Request {
        /// `read` or `write`.
        action: &'static str,
        /// Namespace of the `ConfigMap`.
        namespace: String,
        /// Name of the `ConfigMap`.
        name: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("cannot write ConfigMap {namespace}/{name}: the API server does not answer in time")]
    TimedOut {
        /// Namespace of the `ConfigMap`.
        namespace: String,
        /// Name of the `ConfigMap`.
        name: &'static str,
    },
}
