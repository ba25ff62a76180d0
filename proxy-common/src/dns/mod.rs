//! What a DNS answer says about one name, read the same way in user space and in the kernel.
//!
//! A [`Walk`] tells whose answer a message is, and which addresses it gives. It reads through
//! [`Bytes`], allocates nothing, cannot panic, and comes in steps without loops, as the
//! verifier of the kernel wants it; [`read`] takes them all.
//!
//! What is believed: a standard query's response with RCODE 0 and exactly one question, of
//! class IN. Of its answer section the A and AAAA records of the name that was asked for count,
//! and those of the names that its CNAME records lead to, in the order in which a server
//! writes them, unless [no host has](is_of_host) the address. Authority and additional section
//! (EDNS too) are not looked at.
//!
//! Cut messages, those with the TC bit included, are good for the records that are whole: they
//! were said, and clients use them. Reading ends at the first record that is not.
//!
//! A message that names a wrong address harms nobody but its reader: the address is only a
//! reason to hand connections to Postern, which looks at the name that a client asks for and
//! sends a credential to nothing but the Connector's own address.

#![expect(
    clippy::inline_always,
    reason = "the verifier wants one function per program"
)]

mod address;
mod message;
mod name;

pub use address::is_of_host;
pub use message::{STEPS, Step, Walk, read};
pub use name::hash;

/// The bytes of a DNS message, without what carried it.
pub trait Bytes {
    /// `N` bytes (16 at most) from `at` on; `None` where the message ends before.
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
}
