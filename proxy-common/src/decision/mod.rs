//! What happens to a connection of a workload, and why: one rule for the kernel, which acts on
//! it, for `postern explain`, which tells it, and for the tests.
//!
//! [`decide`] asks its questions through [`Facts`]: who calls, what the maps say, what time it
//! is. It allocates nothing, cannot panic, has no loop without a bound, and is inlined into
//! its caller, as the verifier of the kernel wants it. Questions come in the order of their
//! cost, and none that is not needed: a caller that is no workload costs a look at each level,
//! an address that nobody wants two more.

#![expect(
    clippy::inline_always,
    reason = "the verifier wants one function per program"
)]

mod caller;
mod reason;
mod wanted;

pub use caller::{Caller, Callers, caller};
pub use reason::{Reason, Verdict};
pub use wanted::Wanted;

use crate::maps::{
    CREDENTIAL_BYPASS, CREDENTIAL_USABLE, Config, Credential, Destination, DestinationKey,
    HostnameKey, LearnedKey, NAMES_PER_ADDRESS, WORKLOAD_PENDING,
};
use wanted::wanted;

/// Port of name servers: what goes there over UDP is never refused.
const DNS_PORT: u16 = 53;

/// Third word of `::ffff:0:0/96`, and the last words of the addresses of listeners.
const MAPPED: u32 = 0xffffu32.to_be();
const LOOPBACK_V4: u32 = 0x7f00_0001u32.to_be();
const LOOPBACK_V6: u32 = 1u32.to_be();

/// What the decision depends on.
pub trait Facts: Callers {
    /// An entry of `LEARNED`.
    type Learned: Copy;

    /// The value of `CONFIG`; the kernel always has one.
    fn config(&self) -> Option<&Config>;
    /// An entry of `DESTINATIONS`.
    fn destination(&self, key: DestinationKey) -> Option<Destination>;
    /// An entry of `HOSTNAMES`.
    fn hostname(&self, key: HostnameKey) -> Option<Destination>;
    /// An entry of `LEARNED`.
    fn learned(&self, key: LearnedKey) -> Option<Self::Learned>;
    /// The names of such an entry.
    fn names(&self, learned: Self::Learned) -> [u64; NAMES_PER_ADDRESS];
    /// Such an entry led to something that is wanted: it is not to be forgotten soon.
    fn dialled(&self, learned: Self::Learned);
    /// An entry of `CREDENTIALS`.
    fn credential(&self, connector: u32) -> Option<Credential>;
    /// Whether the calling socket is bound to a network device.
    fn is_bound_to_device(&self) -> bool;
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn monotonic_ns(&self) -> u64;
    /// `CLOCK_BOOTTIME` in nanoseconds.
    fn boot_ns(&self) -> u64;
}

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with MPTCP, which shows itself as TCP.
    Tcp,
    /// UDP, without UDP-Lite.
    Udp,
}

impl Transport {
    /// From the type and protocol of an Internet socket. Others are nobody's business.
    #[inline(always)]
    pub const fn of(kind: u32, protocol: u32) -> Option<Self> {
        const SOCK_STREAM: u32 = 1;
        const SOCK_DGRAM: u32 = 2;
        const IPPROTO_UDP: u32 = 17;
        match (kind, protocol) {
            (SOCK_STREAM, _) => Some(Self::Tcp),
            (SOCK_DGRAM, IPPROTO_UDP) => Some(Self::Udp),
            _ => None,
        }
    }
}

/// What a socket wants to reach, by `connect()` or with one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Address, IPv4 in its v4-mapped form.
    pub addr: [u8; 16],
    /// Port.
    pub port: u16,
    /// By what.
    pub transport: Transport,
}

impl Dial {
    /// Whether the address is an IPv4 one.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        (a, b, c) == (0, 0, MAPPED)
    }

    /// Whether the address is one of those at which the listeners of workloads are.
    #[inline(always)]
    fn is_listeners_address(&self) -> bool {
        let [a, b, c, d] = self.words();
        (a, b) == (0, 0) && ((c, d) == (MAPPED, LOOPBACK_V4) || (c, d) == (0, LOOPBACK_V6))
    }

    /// The address in words, in network order: few of them, and no loop.
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        match self.addr.as_chunks() {
            (&[a, b, c, d], _) => [a, b, c, d].map(u32::from_ne_bytes),
            _ => [0; 4],
        }
    }
}

/// What is decided, and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why, from which follows [what](Reason::verdict).
    pub reason: Reason,
    /// The workload, once it is found.
    pub caller: Option<Caller>,
    /// What its policy wants of the address and port, if it does.
    pub wanted: Option<Wanted>,
    /// Port of the listener to which the connection goes; 0 unless it is redirected.
    pub via_port: u16,
}

/// The whole decision.
#[inline(always)]
pub fn decide<F: Facts>(facts: &F, dial: &Dial) -> Decision {
    let mut decision = Decision {
        reason: Reason::NotEnrolled,
        caller: None,
        wanted: None,
        via_port: 0,
    };
    if dial.transport == Transport::Udp && dial.port == DNS_PORT {
        decision.reason = Reason::Dns;
        return decision;
    }
    let Some(config) = facts.config() else {
        return decision;
    };
    let Some(caller) = caller(facts, config) else {
        return decision;
    };
    decision.caller = Some(caller);

    let Some(wanted) = wanted(facts, &caller, dial) else {
        decision.reason = Reason::Unwanted;
        return decision;
    };
    decision.wanted = Some(wanted);

    let via_port = if dial.is_v4() {
        caller.workload.port_v4
    } else {
        caller.workload.port_v6
    };
    if dial.port == via_port && dial.is_listeners_address() {
        decision.reason = Reason::Listener;
        return decision;
    }
    decision.reason = judge(facts, config, &caller, &wanted);
    if dial.transport == Transport::Udp {
        // The listener speaks TCP; whoever is told so at once falls back to it.
        if !matches!(decision.reason.verdict(), Verdict::LeaveAlone) {
            decision.reason = Reason::Udp;
        }
        return decision;
    }
    if matches!(decision.reason, Reason::Redirected) {
        // On loopback a socket that is bound to a device would not fail, it would hang.
        if via_port == 0 {
            decision.reason = Reason::NoListener;
        } else if facts.is_bound_to_device() {
            decision.reason = Reason::BoundToDevice;
        } else {
            decision.via_port = via_port;
        }
    }
    decision
}

/// What is to become of something that is wanted, whatever the socket.
#[inline(always)]
fn judge<F: Facts>(facts: &F, config: &Config, caller: &Caller, wanted: &Wanted) -> Reason {
    let credential = credential(facts, wanted.connector);
    if let Err(Reason::SwitchedOff) = credential {
        return Reason::SwitchedOff;
    }
    if caller.workload.flags & WORKLOAD_PENDING != 0 {
        return if wanted.fails_open {
            Reason::PendingOpen
        } else {
            Reason::Pending
        };
    }
    if let Err(reason) = credential {
        return reason;
    }
    if !is_alive(config, facts.monotonic_ns()) {
        return if wanted.fails_open {
            Reason::StaleOpen
        } else {
            Reason::Stale
        };
    }
    Reason::Redirected
}

/// Whether the agent's last sign of life is young enough.
#[inline(always)]
pub fn is_alive(config: &Config, monotonic_ns: u64) -> bool {
    let age = monotonic_ns.saturating_sub(config.heartbeat_ns);
    config.heartbeat_ns != 0 && age <= config.grace_ns
}

/// Whether a Connector's credential can be used. Several Connectors behind one address are the
/// proxy's to tell apart.
#[inline(always)]
fn credential<F: Facts>(facts: &F, connector: u32) -> Result<(), Reason> {
    if connector == 0 {
        return Ok(());
    }
    let Some(credential) = facts.credential(connector) else {
        return Err(Reason::CredentialUnknown);
    };
    match credential.state {
        CREDENTIAL_USABLE
            if credential.not_after_ns != 0 && facts.boot_ns() > credential.not_after_ns =>
        {
            Err(Reason::CredentialExpired)
        }
        CREDENTIAL_USABLE => Ok(()),
        CREDENTIAL_BYPASS => Err(Reason::SwitchedOff),
        _ => Err(Reason::CredentialRefused),
    }
}
