use std::net::IpAddr;

/// Why a host has no address. Ordered by how much hope there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ResolveError {
    /// No DNS name at all.
    #[error("it is no host name; check the Connector's spec.address")]
    NotAName,
    /// NXDOMAIN.
    #[error(
        "there is no such name, says the name server {0} (NXDOMAIN); check the Connector's \
         spec.address, or have the name added there"
    )]
    NoName(IpAddr),
    /// No record of either family.
    #[error(
        "the name has no address, says the name server {0} (neither an A nor an AAAA record); \
         have one added there, or check the Connector's spec.address"
    )]
    NoAddress(IpAddr),
    /// An answer that is none.
    #[error(
        "the name server {server} failed: {reason}; look there, or name another one in \
         /etc/resolv.conf"
    )]
    Failed {
        /// Which one.
        server: IpAddr,
        /// What it answered, or why it could not be asked.
        reason: String,
    },
    /// Nothing at all.
    #[error(
        "no name server answered in time (asked {0}); check that the node reaches it, and the \
         nameserver lines of /etc/resolv.conf"
    )]
    Silent(String),
}
