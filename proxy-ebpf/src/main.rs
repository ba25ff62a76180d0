//! The kernel programs: they send a workload's connections to a Connector's address to
//! Postern's listener, and touch nothing else.
//!
//! One connection meets them in this order: [`connect`] decides, from [`facts`], and rewrites, [`flows`]
//! publishes where the connection wanted to go, [`getpeername`] shows the application the
//! address that it dialled. Before all of them, [`dns`] may have learned the address from a server
//! that the workload had [`asked`].
#![no_std]
#![no_main]
// An atomic addition has to be written in assembler; aya-ebpf needs the feature as well.
#![feature(asm_experimental_arch)]
#![expect(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers that the verifier checks"
)]
#![expect(
    clippy::inline_always,
    reason = "the verifier wants one function per program"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "contexts hold 16-bit ports in 32-bit fields"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros hand contexts over by value"
)]

mod addr;
mod asked;
mod connect;
mod dns;
mod facts;
mod flows;
mod getpeername;
mod maps;

/// Licence of the object, as the kernel asks for it: GPL-only helpers are in use, and the
/// GPL is one of the two licences of this crate.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
