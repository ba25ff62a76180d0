//! `connect()`: redirect, refuse, or leave alone.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_set_retval, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use proxy_common::{
    decision::{Decision, Dial, Reason, Transport, Verdict, decide},
    maps::{Origin, SocketOrigin},
};

use crate::{
    addr::Addr,
    asked,
    facts::Call,
    maps::{ORIGINS, STATS},
};

const ECONNREFUSED: i32 = 111;
const LOOPBACK_V4: [u8; 4] = [127, 0, 0, 1];
/// Lets the call go on.
const PROCEED: i32 = 1;

/// Set by the loader where the kernel has `bpf_set_retval` (5.18); without it a refused
/// call reports EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 0;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows for connect4.
    unsafe {
        let addr = Addr::v4((*ctx).user_ip4);
        match connect(ctx, addr) {
            Outcome::Proceed => PROCEED,
            Outcome::Refuse => refuse(),
            Outcome::Redirect { port } => {
                (*ctx).user_ip4 = u32::from_ne_bytes(LOOPBACK_V4);
                (*ctx).user_port = u32::from(port.to_be());
                PROCEED
            }
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows for connect6.
    unsafe {
        let addr = v6(ctx);
        match connect(ctx, addr) {
            Outcome::Proceed => PROCEED,
            Outcome::Refuse => refuse(),
            Outcome::Redirect { port } => {
                // A mapped destination stays mapped, so that the socket's family keeps
                // matching its peer: only the last word, the IPv4 address, changes.
                if addr.is_v4() {
                    (*ctx).user_ip6[3] = u32::from_ne_bytes(LOOPBACK_V4);
                } else {
                    (*ctx).user_ip6[0] = 0;
                    (*ctx).user_ip6[1] = 0;
                    (*ctx).user_ip6[2] = 0;
                    (*ctx).user_ip6[3] = 1u32.to_be();
                }
                (*ctx).user_port = u32::from(port.to_be());
                PROCEED
            }
        }
    }
}

/// One datagram of a socket that is not connected. An IPv6 socket that sends to a v4-mapped
/// address comes here as well.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: a read of a context field, as the verifier allows for sendmsg4.
    let addr = Addr::v4(unsafe { (*ctx).user_ip4 });
    send(ctx, addr)
}

/// The same to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    send(ctx, v6(ctx))
}

/// What becomes of a `connect()`.
enum Outcome {
    Proceed,
    Refuse,
    Redirect { port: u16 },
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, addr: Addr) -> Outcome {
    let Some(dial) = dial(ctx, addr) else {
        return Outcome::Proceed;
    };
    let decision = decide(&Call(ctx), &dial);
    match decision.reason.verdict() {
        Verdict::LeaveAlone => {
            count(dial.transport, decision.reason);
            Outcome::Proceed
        }
        Verdict::Redirect if remember(ctx, &dial, &decision) => {
            count(dial.transport, Reason::Redirected);
            Outcome::Redirect {
                port: decision.via_port,
            }
        }
        Verdict::Redirect => {
            count(dial.transport, Reason::NoMemory);
            Outcome::Refuse
        }
        Verdict::Refuse => {
            count(dial.transport, decision.reason);
            Outcome::Refuse
        }
    }
}

#[inline(always)]
fn send(ctx: *mut bpf_sock_addr, addr: Addr) -> i32 {
    let dial = dial(ctx, addr);
    // UDP-Lite comes here as well.
    let Some(dial) = dial.filter(|dial| dial.transport == Transport::Udp) else {
        return PROCEED;
    };
    let reason = decide(&Call(ctx), &dial).reason;
    if matches!(reason, Reason::Dns) {
        asked::note(ctx, addr);
        return PROCEED;
    }
    count(dial.transport, reason);
    match reason.verdict() {
        Verdict::Refuse => refuse(),
        Verdict::LeaveAlone | Verdict::Redirect => PROCEED,
    }
}

#[inline(always)]
fn dial(ctx: *mut bpf_sock_addr, addr: Addr) -> Option<Dial> {
    // SAFETY: reads of context fields.
    let (kind, protocol, port) = unsafe { ((*ctx).type_, (*ctx).protocol, (*ctx).user_port) };
    Some(Dial {
        addr: addr.bytes(),
        port: u16::from_be(port as u16),
        transport: Transport::of(kind, protocol)?,
    })
}

/// The IPv6 address of a context. It is read word by word: a copy of the array would make the
/// compiler form a modified context pointer, which the verifier refuses.
#[inline(always)]
fn v6(ctx: *mut bpf_sock_addr) -> Addr {
    // SAFETY: reads of context fields, as the verifier allows for connect6 and sendmsg6.
    unsafe {
        Addr([
            (*ctx).user_ip6[0],
            (*ctx).user_ip6[1],
            (*ctx).user_ip6[2],
            (*ctx).user_ip6[3],
        ])
    }
}

/// Keeps with the socket where it wanted to go; whether there is memory for it.
#[inline(always)]
fn remember(ctx: *mut bpf_sock_addr, dial: &Dial, decision: &Decision) -> bool {
    let (Some(caller), Some(wanted)) = (decision.caller, decision.wanted) else {
        return false;
    };
    let origin = SocketOrigin {
        origin: Origin {
            workload: caller.cgroup_id,
            addr: dial.addr,
            connector: wanted.connector,
            port: dial.port,
            via_port: decision.via_port,
        },
        published: 0,
    };
    let ctx = SockAddrContext::new(ctx);
    // A copy of its own: what the helper has seen would be copied byte by byte below.
    let mut initial = origin;
    // SAFETY: the context's own socket; `initial` is initialised to the last byte.
    let stored = unsafe { ORIGINS.get_or_insert_ptr_mut(&ctx, Some(&mut initial)) };
    if stored.is_null() {
        return false;
    }
    // A socket that connects again still has the storage of its first attempt.
    // SAFETY: not null, and sized and aligned for a `SocketOrigin`.
    unsafe { *stored = origin };
    true
}

#[inline(always)]
fn count(transport: Transport, reason: Reason) {
    if let Some(stats) = STATS.get_ptr_mut(0) {
        // SAFETY: the slot of this CPU; programs do not preempt each other on it.
        unsafe { (*stats).count(transport, reason) };
    }
}

#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: a read-only global that the loader sets before the program is verified; the
    // helper behind it is never reached on a kernel that lacks it.
    unsafe {
        if core::ptr::read_volatile(&raw const HAS_SET_RETVAL) == 1 {
            bpf_set_retval(-ECONNREFUSED);
        }
    }
    0
}
