//! Tells the proxy where an accepted connection wanted to go.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{
        BPF_EXIST, BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock_ops,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use proxy_common::maps::{FlowKey, Origin, SocketOrigin, WorkloadKey};

use crate::{
    addr::Addr,
    maps::{FLOW_COUNTS, FLOW_LIMIT, FLOWS, atomic_add, count, stored_origin},
};

const EEXIST: i32 = -17;

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
    let Some(stored) = stored(ctx) else { return };
    // SAFETY: the storage of this socket.
    let origin = unsafe { (*stored.as_ptr()).origin };
    // Somewhere else: the socket was redirected once and now connects elsewhere.
    if !goes_to_listener(ctx.ops, &origin) {
        return;
    }
    // Without the end of the connection there is no beginning.
    let flags = (ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed();
    if ctx.set_cb_flags(flags).is_err() || !insert(&flow_key(ctx.ops, &origin), &origin) {
        count!(flows_lost);
        return;
    }
    // SAFETY: as above, and aligned.
    unsafe { (*stored.as_ptr()).published = 1 };
    count!(flows);
}

/// Publishes a flow, unless its workload has used up its share.
#[inline(always)]
fn insert(key: &FlowKey, origin: &Origin) -> bool {
    let (Some(open), Some(limit)) = (open_flows(origin), FLOW_LIMIT.get(0)) else {
        return false;
    };
    // SAFETY: a counter that other CPUs write. Each may be one connection late to see it full.
    if unsafe { open.read_volatile() } >= *limit {
        return false;
    }
    match FLOWS.insert(key, origin, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            // SAFETY: as above, and aligned.
            unsafe { atomic_add(open, 1) };
            true
        }
        // Of the agent that is being replaced, for the moment in which both have programs; or
        // the end of an earlier connection was not seen. Counted then.
        Err(EEXIST) => FLOWS.insert(key, origin, u64::from(BPF_EXIST)).is_ok(),
        Err(_) => false,
    }
}

/// The count of the workload's flows; none if the agent has withdrawn it.
#[inline(always)]
fn open_flows(origin: &Origin) -> Option<*mut i64> {
    let count = FLOW_COUNTS.get_ptr_mut(WorkloadKey {
        cgroup_id: origin.workload,
    })?;
    // SAFETY: an entry, which the kernel keeps while the program runs.
    Some(unsafe { &raw mut (*count).open })
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
    let Some(stored) = stored(ctx) else { return };
    // SAFETY: the storage of this socket; the kernel has the socket locked.
    let origin = unsafe {
        // One that was not published was not counted. It may have the ends of one that was, of
        // another socket: that is why it could not connect.
        if (*stored.as_ptr()).published == 0 {
            return;
        }
        (*stored.as_ptr()).published = 0;
        (*stored.as_ptr()).origin
    };
    if FLOWS.remove(flow_key(ctx.ops, &origin)).is_ok()
        && let Some(open) = open_flows(&origin)
    {
        // SAFETY: a valid and aligned counter.
        unsafe { atomic_add(open, -1) };
    }
}

#[inline(always)]
fn stored(ctx: &SockOpsContext) -> Option<NonNull<SocketOrigin>> {
    // SAFETY: a read of a context field; null for a socket that is not full.
    stored_origin(unsafe { (*ctx.ops).__bindgen_anon_2.sk })
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
        via_port: origin.via_port,
        pad: [0; 2],
    }
}
