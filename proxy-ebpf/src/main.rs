//! The kernel programs: they send a workload's connections to a Connector's address to
//! Postern's listener, and touch nothing else.
//!
//! One connection meets them in this order: [`connect`] decides and rewrites, [`flows`]
//! publishes where the connection wanted to go, [`getpeername`] shows the application the
//! address that it dialled.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers that the verifier checks"
)]

mod addr;
mod connect;
mod flows;
mod getpeername;
mod maps;

/// Licence of the object, as the kernel asks for it: GPL-only helpers are in use.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
