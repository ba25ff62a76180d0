//! Tells the proxy where an accepted connection wanted to go.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE, bpf_sock_ops,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use proxy_common::maps::{FlowKey, Origin};

use crate::{
    addr::Addr,
    maps::{FLOWS, count, origin_of},
};

/// Runs before the SYN leaves, when the source port is known: the flow is there before the
/// listener can accept.
#[sock_ops]
pub(crate) fn flows(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => publish(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => withdraw(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn publish(ctx: &SockOpsContext) {
    let Some(origin) = origin(ctx) else { return };
    // Somewhere else: the socket was redirected once and now connects elsewhere.
    if !goes_to_listener(ctx.ops, &origin) {
        return;
    }
    if FLOWS.insert(flow_key(ctx.ops, &origin), origin, 0).is_err()
        || ctx
            .set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed())
            .is_err()
    {
        count!(flows_lost);
        return;
    }
    count!(flows);
}

#[inline(always)]
fn goes_to_listener(ops: *mut bpf_sock_ops, origin: &Origin) -> bool {
    // As in `flow_key`.
    // SAFETY: reads of context fields, word by word.
    let (v4, v6, port) = unsafe {
        let v4 = core::ptr::read_volatile(&raw const (*ops).remote_ip4);
        let v6 = [
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[0]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[1]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[2]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[3]),
        ];
        // Network order in the upper half.
        let port = u16::from_be(((*ops).remote_port >> 16) as u16);
        (Addr::v4(v4), Addr(v6), port)
    };
    let is_v4 = Addr::from_bytes(origin.addr).is_v4();
    port == origin.via_port && if is_v4 { v4 } else { v6 }.is_loopback()
}

#[inline(always)]
fn withdraw(ctx: &SockOpsContext) {
    if let Some(origin) = origin(ctx) {
        // Already evicted is as good as removed.
        let _ = FLOWS.remove(flow_key(ctx.ops, &origin));
    }
}

#[inline(always)]
fn origin(ctx: &SockOpsContext) -> Option<Origin> {
    // SAFETY: a read of a context field; null for a socket that is not full.
    origin_of(unsafe { (*ctx.ops).__bindgen_anon_2.sk })
}

#[inline(always)]
fn flow_key(ops: *mut bpf_sock_ops, origin: &Origin) -> FlowKey {
    // All fields are read before anything is decided: if the compiler chose between the
    // fields instead of their values, it would form a modified context pointer.
    // SAFETY: reads of context fields, word by word.
    let (v4, v6, port) = unsafe {
        let v4 = core::ptr::read_volatile(&raw const (*ops).local_ip4);
        let v6 = [
            core::ptr::read_volatile(&raw const (*ops).local_ip6[0]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[1]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[2]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[3]),
        ];
        (Addr::v4(v4), Addr(v6), (*ops).local_port as u16)
    };
    let addr = if Addr::from_bytes(origin.addr).is_v4() {
        v4
    } else {
        v6
    };
    FlowKey {
        workload: origin.workload,
        addr: addr.bytes(),
        port,
        pad: [0; 3],
    }
}
