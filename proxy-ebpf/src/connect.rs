//! `connect()`: redirect, refuse, or leave alone.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_set_retval,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use proxy_common::maps::{
    CREDENTIAL_BYPASS, CREDENTIAL_USABLE, Config, CredentialKey, DESTINATION_FAIL_OPEN,
    Destination, DestinationKey, HostnameKey, LearnedKey, Origin, Workload,
};

use crate::{
    addr::Addr,
    maps::{CONFIG, CREDENTIALS, DESTINATIONS, HOSTNAMES, LEARNED, ORIGINS, count, socket},
    workload,
};

const SOCK_STREAM: u32 = 1;
const ECONNREFUSED: i32 = 111;
const LOOPBACK_V4: [u8; 4] = [127, 0, 0, 1];

/// Set by the loader where the kernel has `bpf_set_retval` (5.18); without it a refused
/// `connect()` reports EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 0;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows for connect4.
    unsafe {
        let addr = Addr::v4((*ctx).user_ip4);
        match decide(ctx, addr) {
            Verdict::LeaveAlone => 1,
            Verdict::Refuse => refuse(),
            Verdict::Redirect { port } => {
                (*ctx).user_ip4 = u32::from_ne_bytes(LOOPBACK_V4);
                (*ctx).user_port = u32::from(port.to_be());
                1
            }
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    // SAFETY: reads and writes of context fields, as the verifier allows for connect6. They
    // are read word by word: a copy of the array would make the compiler form a modified
    // context pointer, which the verifier refuses.
    unsafe {
        let addr = Addr([
            (*ctx).user_ip6[0],
            (*ctx).user_ip6[1],
            (*ctx).user_ip6[2],
            (*ctx).user_ip6[3],
        ]);
        match decide(ctx, addr) {
            Verdict::LeaveAlone => 1,
            Verdict::Refuse => refuse(),
            Verdict::Redirect { port } => {
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
                1
            }
        }
    }
}

enum Verdict {
    LeaveAlone,
    Refuse,
    Redirect { port: u16 },
}

/// The whole decision, for both address families.
#[inline(always)]
unsafe fn decide(ctx: *mut bpf_sock_addr, addr: Addr) -> Verdict {
    // SAFETY: reads of context fields.
    let (kind, port) = unsafe { ((*ctx).type_, u16::from_be((*ctx).user_port as u16)) };
    if kind != SOCK_STREAM {
        return Verdict::LeaveAlone;
    }
    let Some(config) = CONFIG.get(0) else {
        return Verdict::LeaveAlone;
    };
    // SAFETY: no argument to get wrong.
    let ancestor = |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) };
    let Some((cgroup_id, workload)) = workload::find(config, ancestor) else {
        return Verdict::LeaveAlone;
    };
    count!(connects);

    let Some(destination) = wanted(cgroup_id, &workload, addr.bytes(), port) else {
        count!(untouched);
        return Verdict::LeaveAlone;
    };

    match credential_state(destination.connector) {
        State::Usable => {}
        State::Bypass => {
            count!(bypassed);
            return Verdict::LeaveAlone;
        }
        State::Refuse => {
            count!(refused_cred);
            return Verdict::Refuse;
        }
    }

    if is_stale(config) {
        if destination.flags & DESTINATION_FAIL_OPEN != 0 {
            count!(bypassed);
            return Verdict::LeaveAlone;
        }
        count!(refused_stale);
        return Verdict::Refuse;
    }

    let via_port = if addr.is_v4() {
        workload.port_v4
    } else {
        workload.port_v6
    };
    let sk = socket(ctx);
    // A socket bound to a device would not fail on loopback, it would hang.
    // SAFETY: the socket of a sock_addr context is never null.
    if via_port == 0 || unsafe { (*sk).bound_dev_if } != 0 {
        count!(refused_sock);
        return Verdict::Refuse;
    }

    let mut origin = Origin {
        workload: cgroup_id,
        addr: addr.bytes(),
        connector: destination.connector,
        port,
        via_port,
    };
    let ctx = SockAddrContext::new(ctx);
    // SAFETY: the context's own socket; `origin` is initialised to the last byte.
    let stored = unsafe { ORIGINS.get_or_insert_ptr_mut(&ctx, Some(&mut origin)) };
    if stored.is_null() {
        count!(refused_mem);
        return Verdict::Refuse;
    }
    // A socket that connects again still has the storage of its first attempt.
    // SAFETY: not null, and sized and aligned for `Origin`.
    unsafe { *stored = origin };
    count!(redirected);
    Verdict::Redirect { port: via_port }
}

/// What the policy wants of an address and port: by the address, and by the names that the
/// workload was told the address for. Several Connectors are the proxy's to tell apart.
#[inline(always)]
fn wanted(cgroup_id: u64, workload: &Workload, addr: [u8; 16], port: u16) -> Option<Destination> {
    let policy = workload.policy;
    // SAFETY: copied before anything can change the map entry.
    let by_address = unsafe { DESTINATIONS.get(DestinationKey { policy, addr }) }.copied();
    let mut wanted = by_address.filter(|found| wants(found, port));
    let key = LearnedKey {
        workload: cgroup_id,
        addr,
    };
    let Some(learned) = LEARNED.get_ptr_mut(key) else {
        return wanted;
    };
    // SAFETY: an entry of this workload, read word by word.
    for name in unsafe { (*learned).names } {
        if name == 0 {
            break;
        }
        let key = HostnameKey {
            name,
            policy,
            pad: 0,
        };
        // SAFETY: copied before anything can change the map entry.
        let by_name = unsafe { HOSTNAMES.get(key) }.copied();
        if let Some(found) = by_name.filter(|found| wants(found, port)) {
            wanted = Some(wanted.map_or(found, |wanted| both(&wanted, &found)));
        }
    }
    if wanted.is_some() {
        // What is dialled is not forgotten, however long ago it was resolved.
        // SAFETY: an aligned field of an entry; takes no argument.
        unsafe { (*learned).seen_ns = bpf_ktime_get_ns() };
    }
    wanted
}

#[inline(always)]
fn both(a: &Destination, b: &Destination) -> Destination {
    Destination {
        connector: if a.connector == b.connector {
            a.connector
        } else {
            0
        },
        // Fail-open if both are.
        flags: a.flags & b.flags,
        ports: a.ports,
    }
}

#[inline(always)]
fn wants(destination: &Destination, port: u16) -> bool {
    let [a, b, c, d] = destination.ports;
    port != 0 && (port == a || port == b || port == c || port == d)
}

enum State {
    Usable,
    Refuse,
    Bypass,
}

/// State of a Connector's credential. Several Connectors behind one address are the proxy's
/// to tell apart.
#[inline(always)]
fn credential_state(connector: u32) -> State {
    if connector == 0 {
        return State::Usable;
    }
    // SAFETY: read at once.
    let Some(credential) = (unsafe { CREDENTIALS.get(CredentialKey { connector }) }) else {
        return State::Refuse;
    };
    match credential.state {
        CREDENTIAL_USABLE => {
            // SAFETY: takes no argument.
            let now = unsafe { bpf_ktime_get_boot_ns() };
            if credential.not_after_ns != 0 && now > credential.not_after_ns {
                State::Refuse
            } else {
                State::Usable
            }
        }
        CREDENTIAL_BYPASS => State::Bypass,
        _ => State::Refuse,
    }
}

#[inline(always)]
fn is_stale(config: &Config) -> bool {
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    now.saturating_sub(config.heartbeat_ns) > config.grace_ns
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
