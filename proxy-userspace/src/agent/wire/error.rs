use proxy_common::maps::POLICY_ANY;

use crate::state::{AddressError, CertificateFault, generator::GeneratorError};

/// What a message has that it must not have. A newer controller may send what this version
/// does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::agent) enum WireError {
    /// The number that means "none".
    #[error("{0} has the number 0")]
    Zero(&'static str),
    /// The number that means "all".
    #[error(
        "a policy has the number {POLICY_ANY}, which stands for all policies; update the \
         controller"
    )]
    Any,
    /// A Connector without any address that could be refused.
    #[error(
        "connector {0} has no address that this version of the agent understands: nothing of it is \
         in force but what was known of it before, which is refused; update the agent"
    )]
    NoAddress(String),
    /// An address that cannot be. It is not repeated: it may have anything in it.
    #[error(
        "connector {connector} is not in force: its address {fault}; all of its addresses are \
         refused; write another one, or update the agent"
    )]
    Address {
        /// Namespace and name.
        connector: String,
        /// Why not.
        fault: AddressError,
    },
    /// An address extension that cannot be.
    #[error(
        "connector {connector} goes without its address extension {number}, which {fault}; write \
         another one, or update the agent"
    )]
    Extension {
        /// Namespace and name.
        connector: String,
        /// Which one, counted from 1.
        number: usize,
        /// Why not.
        fault: AddressError,
    },
    /// A value that this version does not know.
    #[error(
        "connector {connector} has a {field} that this version of the agent does not know; \
         update the agent"
    )]
    Unknown {
        /// Namespace and name.
        connector: String,
        /// Which field.
        field: &'static str,
    },
    /// A generator that does not work here. A controller of the same version refuses it.
    #[error("connector {connector}: the generator of its class {error}")]
    Generator {
        /// Namespace and name.
        connector: String,
        /// Why not.
        error: GeneratorError,
    },
    /// A certificate or key that cannot be used here. A controller of the same version refuses it.
    #[error("connector {connector}: its client certificate ({key}) {fault}", key = fault.key())]
    Certificate {
        /// Namespace and name.
        connector: String,
        /// Why not.
        fault: CertificateFault,
    },
    /// An address of a pod that is none.
    #[error("pod {pod} has the address {address:?}")]
    PodAddress {
        /// Namespace and name.
        pod: String,
        /// What was sent.
        address: String,
    },
}
