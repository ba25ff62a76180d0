//! The application sees the address that it dialled.
//!
//! These hooks may return nothing but 1.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use proxy_common::maps::{Origin, is_v4_mapped};

use crate::maps::{origin_of, socket};

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows.
    unsafe {
        if let Some(origin) = redirected(&SockAddrContext::new(ctx)) {
            (*ctx).user_ip4 = word(&origin.addr, 3);
            (*ctx).user_port = u32::from(origin.port.to_be());
        }
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows.
    unsafe {
        if let Some(origin) = redirected(&SockAddrContext::new(ctx)) {
            if !is_v4_mapped(&origin.addr) {
                (*ctx).user_ip6[0] = word(&origin.addr, 0);
                (*ctx).user_ip6[1] = word(&origin.addr, 1);
                (*ctx).user_ip6[2] = word(&origin.addr, 2);
            }
            (*ctx).user_ip6[3] = word(&origin.addr, 3);
            (*ctx).user_port = u32::from(origin.port.to_be());
        }
    }
    1
}

/// The socket's origin, if its peer is the listener that it was sent to.
#[inline(always)]
fn redirected(ctx: &SockAddrContext) -> Option<Origin> {
    let origin = origin_of(socket(ctx.sock_addr))?;
    // SAFETY: a read of a context field.
    let peer_port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    (peer_port == origin.via_port).then_some(origin)
}

#[inline(always)]
fn word(addr: &[u8; 16], index: usize) -> u32 {
    let at = index * 4;
    u32::from_ne_bytes([addr[at], addr[at + 1], addr[at + 2], addr[at + 3]])
}
