//! How we are believed, and whom we believe: the node's authority and its leaf certificates
//! towards clients, trust in upstreams.

mod acceptor;
mod authority;
mod error;
mod mint;
#[cfg(test)]
mod tests;
mod tickets;
mod trust;
mod untrusting;

pub use acceptor::{Interceptor, is_distrust};
pub use authority::{Authority, AuthorityKey};
pub use error::TlsError;
pub use trust::{ConnectorTls, Roots, UpstreamTls};
pub use untrusting::{Refused, Sign, Untrusting};

/// ALPN name of HTTP/2 (RFC 9113, section 3.2).
pub const H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1 (RFC 7301, section 6).
pub const HTTP1: &[u8] = b"http/1.1";
