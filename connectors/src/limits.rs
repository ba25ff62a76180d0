//! Limits of what a Connector may hold, in one place. Nodes hold and are sent all of it, so one
//! tenant must not be able to fill them.

/// Size of an address, bytes.
pub const ADDRESS: usize = 2 * 1024;
/// Addresses in `spec.addressExtensions`, defaults of the class included.
pub const EXTENSIONS: usize = 16;
/// Size of one field of a credential (user name, password or token), bytes; what is sent has
/// to fit into the header fields that servers accept.
pub const CREDENTIAL: usize = 16 * 1024;
/// Size of all values of a Secret that hold certificates for one Connector, bytes of PEM.
pub const CA_BUNDLE: usize = 128 * 1024;
