//! The application sees the address that it dialled.
//!
//! These hooks may return nothing but 1.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use proxy_common::maps::Origin;

use crate::{
    addr::Addr,
    maps::{origin_of, socket},
};

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows.
    unsafe {
        let peer = Addr::v4((*ctx).user_ip4);
        if let Some(origin) = redirected(&SockAddrContext::new(ctx), peer) {
            let Addr([.., ip]) = Addr::from_bytes(origin.addr);
            (*ctx).user_ip4 = ip;
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
        let peer = Addr([
            (*ctx).user_ip6[0],
            (*ctx).user_ip6[1],
            (*ctx).user_ip6[2],
            (*ctx).user_ip6[3],
        ]);
        if let Some(origin) = redirected(&SockAddrContext::new(ctx), peer) {
            let Addr([a, b, c, d]) = Addr::from_bytes(origin.addr);
            (*ctx).user_ip6[0] = a;
            (*ctx).user_ip6[1] = b;
            (*ctx).user_ip6[2] = c;
            (*ctx).user_ip6[3] = d;
            (*ctx).user_port = u32::from(origin.port.to_be());
        }
    }
    1
}

/// The socket's origin, if its peer is the listener that it was sent to: it may have connected
/// elsewhere since, to the same port even.
#[inline(always)]
fn redirected(ctx: &SockAddrContext, peer: Addr) -> Option<Origin> {
    let origin = origin_of(socket(ctx.sock_addr))?;
    // SAFETY: a read of a context field.
    let peer_port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    (peer_port == origin.via_port && peer.is_loopback()).then_some(origin)
}
