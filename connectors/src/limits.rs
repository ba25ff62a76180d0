//! Limits of what a Connector may hold, in one place. Nodes hold and are sent all of it, so one
//! tenant must not be able to fill them.

use std::time::Duration;

/// Size of an address, bytes.
pub const ADDRESS: usize = 2 * 1024;
/// Addresses in `spec.addressExtensions`, defaults of the class included.
pub const EXTENSIONS: usize = 16;
/// Size of one field of a credential (user name, password or token), bytes; what is sent has
/// to fit into the header fields that servers accept.
pub const CREDENTIAL: usize = 16 * 1024;
/// Size of all values of a Secret that hold certificates for one Connector, bytes of PEM.
pub const CA_BUNDLE: usize = 128 * 1024;
/// Size of `tls.crt`: a client certificate and those that issued it, bytes of PEM.
pub const CLIENT_CHAIN: usize = 64 * 1024;
/// Size of `generator.rego`, bytes.
pub const GENERATOR: usize = 32 * 1024;
/// Rules of a generator, functions included.
pub const GENERATOR_RULES: usize = 32;
/// How deep its expressions may be nested; evaluating one more needs more stack.
pub const GENERATOR_DEPTH: usize = 32;
/// Processor time of one evaluation.
pub const GENERATOR_TIME: Duration = Duration::from_millis(50);
/// Longest text that one of its functions makes, bytes.
pub const GENERATOR_TEXT: usize = 256 * 1024;
/// Size of all that a generator is given of a Secret and of parameters, bytes.
pub const GENERATOR_INPUT: usize = 128 * 1024;
/// Headers, query parameters or fields that it may set.
pub const GENERATED_FIELDS: usize = 32;
/// Size of all of them, bytes.
pub const GENERATED: usize = 32 * 1024;
