//! Layouts of the BPF maps.
//!
//! Every type is `repr(C)` without implicit padding, so that equal values are equal bytes:
//! the kernel hashes keys byte by byte, and padding would also leak stack contents. Integers
//! are in host order; addresses are 16 bytes in network order, IPv4 in its v4-mapped form
//! (RFC 4291, section 2.5.5.2).

use core::mem::offset_of;

/// Version of everything in this file; part of the pin path and of [`Config`].
pub const ABI: u32 = 3;

/// Most entries of `WORKLOADS`.
pub const MAX_WORKLOADS: usize = 4_096;
/// Most entries of `DESTINATIONS`.
pub const MAX_DESTINATIONS: usize = 65_536;
/// Most entries of `CREDENTIALS`.
pub const MAX_CREDENTIALS: usize = 16_384;
/// Most entries of `FLOWS`, shared out among the workloads: see [`FlowCount`].
pub const MAX_FLOWS: usize = 524_288;
/// Most redirected connections that one workload can have open, however few workloads there
/// are: four times what its listener serves at a time.
pub const FLOWS_PER_WORKLOAD: usize = 16_384;
/// Most entries of `HOSTNAMES`.
pub const MAX_HOSTNAMES: usize = 65_536;
/// Most entries of `LEARNED`, shared out among the workloads: see [`Budget::limit`].
pub const MAX_LEARNED: usize = 65_536;
/// Most addresses that one workload can learn, however few workloads there are.
pub const LEARNED_PER_WORKLOAD: usize = 256;
/// Names that one address can have been learned for.
pub const NAMES_PER_ADDRESS: usize = 4;
/// Name servers that are kept for one socket: one more than the resolvers of C libraries use.
pub const SERVERS_PER_SOCKET: usize = 4;
/// Cgroup levels at which a workload may live.
pub const MAX_LEVELS: usize = 8;

/// Key of `WORKLOADS`, in every version of the layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadKey {
    /// Id of the workload's own cgroup: the inode number of its directory.
    pub cgroup_id: u64,
}

/// Value of `WORKLOADS`: one enrolled workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which set of Connectors it is granted.
    pub policy: u32,
    /// Port of its listener on 127.0.0.1; 0 when there is none.
    pub port_v4: u16,
    /// Port of its listener on `::1`; 0 when there is none.
    pub port_v6: u16,
    /// [`WORKLOAD_PENDING`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// The workload is known and not served yet: what its policy wants is refused, or left alone if
/// it fails open.
pub const WORKLOAD_PENDING: u32 = 1;

/// Policy of a pending workload of which it is not known yet what it is granted: it wants
/// what any policy of the node wants. No policy of the controller has this number.
pub const POLICY_ANY: u32 = u32::MAX;

/// Key of `DESTINATIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationKey {
    /// Policy of the calling workload.
    pub policy: u32,
    /// Address that it dials.
    pub addr: [u8; 16],
    /// Port that it dials; never 0.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Value of `DESTINATIONS`: what the policy wants of a port of an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Key into `CREDENTIALS`, or 0 when several Connectors share address and port: then the
    /// proxy tells them apart by name.
    pub connector: u32,
    /// [`DESTINATION_FAIL_OPEN`].
    pub flags: u32,
}

/// While Postern does not answer, the destination is dialled directly instead of refused.
pub const DESTINATION_FAIL_OPEN: u32 = 1;

/// Key of `HOSTNAMES`, whose values are [`Destination`]s: what the policy wants of a port of any
/// address that a workload was told for the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostnameKey {
    /// [Hash](crate::dns::hash) of the host; never 0.
    pub name: u64,
    /// Policy of the workload.
    pub policy: u32,
    /// Port that it dials, or [`WHOLE_HOST`].
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// [`HostnameKey::port`] of the entry that each host of a policy has besides those of its ports.
/// Whoever reads DNS answers asks for that one: which port is dialled is not known yet. Its value
/// means nothing, and no connection leads to it: none to port 0 is looked up.
pub const WHOLE_HOST: u16 = 0;

/// Key of `LEARNED`. What one workload was told counts for no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LearnedKey {
    /// Cgroup id of the workload.
    pub workload: u64,
    /// Address that a DNS answer gave it.
    pub addr: [u8; 16],
}

/// Value of `LEARNED`. It leads to `HOSTNAMES` instead of repeating what is there: a grant that
/// changes holds for what was learned before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// [`HostnameKey::name`]s that the address was given for, the latest first; 0 is an empty
    /// place.
    pub names: [u64; NAMES_PER_ADDRESS],
    /// `CLOCK_MONOTONIC` in nanoseconds when it was last told or dialled.
    pub seen_ns: u64,
}

/// Value of `BUDGETS`, whose key is [`WorkloadKey`]: how much of `LEARNED` is a workload's.
///
/// An LRU map would let a workload that floods itself with made-up answers push out what others
/// learned. With a share of its own, it can only use up that.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Entries that it has: counted by the kernel, corrected by the agent. 64 bits, as atomic
    /// additions of the kernel programs are.
    pub used: u64,
    /// Entries that it may have. The agent keeps the sum for all workloads at or below
    /// [`MAX_LEARNED`].
    pub limit: u64,
}

/// Value of `ASKED` (socket storage): name servers that a socket asked without being connected to
/// one. No answer of another teaches its workload anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Addresses, the latest first; `::` is an empty place.
    pub servers: [[u8; 16]; SERVERS_PER_SOCKET],
}

/// Key of `CREDENTIALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialKey {
    /// Number of the Connector; never 0.
    pub connector: u32,
}

/// Value of `CREDENTIALS`: the binding of a credential, never the secret itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Counts the replacements since the agent started.
    pub generation: u64,
    /// Derived from the identity and version of the Secret, never from its contents.
    pub revision: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds after which it is unusable; 0 is never.
    pub not_after_ns: u64,
    /// One of the `CREDENTIAL_*` states.
    pub state: u32,
    /// No flag is defined; 0.
    pub flags: u32,
}

/// The credential may be used: redirect.
pub const CREDENTIAL_USABLE: u32 = 1;
/// The credential is known to be bad or gone: refuse.
pub const CREDENTIAL_REFUSE: u32 = 2;
/// The Connector is switched off: leave its connections alone.
pub const CREDENTIAL_BYPASS: u32 = 3;

/// Value of `FLOWS`: where a redirected connection wanted to go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Cgroup id of the workload.
    pub workload: u64,
    /// Address that it dialled.
    pub addr: [u8; 16],
    /// The [`Destination::connector`] that matched.
    pub connector: u32,
    /// Port that it dialled.
    pub port: u16,
    /// Port of the listener that it was sent to.
    pub via_port: u16,
}

/// Value of `ORIGINS` (socket storage): where a redirected socket wanted to go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOrigin {
    /// Of the last connect that was redirected.
    pub origin: Origin,
    /// 1 while the flow of that connection is published, and 0 otherwise: a socket withdraws no
    /// flow but its own, wherever it connects afterwards.
    pub published: u64,
}

/// Key of `FLOWS`: the ends of a redirected connection, as the listener sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Cgroup id of the workload. Source addresses of different network namespaces collide.
    pub workload: u64,
    /// Source address.
    pub addr: [u8; 16],
    /// Source port.
    pub port: u16,
    /// Port of the listener: while one agent gives way to another a workload has two, and a
    /// source port can be in use at both.
    pub via_port: u16,
    /// Zero.
    pub pad: [u16; 2],
}

/// Value of `FLOW_COUNTS`, whose key is [`WorkloadKey`]: how much of `FLOWS` is a workload's.
///
/// As with [`Budget`], and for the same reason: who opens connections without end shall not make
/// the listeners of others miss theirs. What a workload may have is in `FLOW_LIMIT`, the same for
/// all, so that the agent never writes what the kernel counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCount {
    /// Entries that it has. Below 0 when connections end that are older than the count.
    pub open: i64,
}

/// The one value of `CONFIG`.
///
/// Agents of all versions find each other here, whatever [`ABI`] they have: what is up to and
/// with [`owner`](Self::owner) stays where it is, and new fields come after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CLOCK_MONOTONIC` in nanoseconds when the agent was last known to be alive; that clock
    /// stands still while the machine sleeps, as the agent does. 0: it has ended.
    pub heartbeat_ns: u64,
    /// Age of the heartbeat from which the agent counts as gone, in nanoseconds.
    pub grace_ns: u64,
    /// [`ABI`] of the writer.
    pub abi: u32,
    /// Zero.
    pub pad: u32,
    /// Ancestor levels at which workloads live; 0 is an empty place.
    pub levels: [u8; MAX_LEVELS],
    /// Random number of the agent that writes the maps, or of the one that is about to take
    /// over from it; 0 when the maps are not pinned. The kernel does not look at it.
    pub owner: u64,
}

/// The one value of `STATS`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// TCP connects of workloads, pending ones too: the sum of those up to `refused_pending`.
    pub connects: u64,
    /// To an address or port that no Connector wants, or to the listener itself; left alone.
    pub untouched: u64,
    /// Sent to the listener.
    pub redirected: u64,
    /// Left alone although wanted: the Connector is switched off or fails open.
    pub bypassed: u64,
    /// Refused: the credential is not usable.
    pub refused_cred: u64,
    /// Refused: the agent does not answer.
    pub refused_stale: u64,
    /// Refused: the socket cannot be redirected (bound to a device, or no listener for its
    /// address family).
    pub refused_sock: u64,
    /// Refused: no memory for the socket's origin.
    pub refused_mem: u64,
    /// Refused: the workload is not served yet.
    pub refused_pending: u64,
    /// UDP to what a Connector wants, such as QUIC, refused: sockets that connect and, of those
    /// that do not, each datagram.
    pub refused_udp: u64,
    /// Flows published.
    pub flows: u64,
    /// Flows that could not be published, because the workload has used up its share or there is
    /// no memory; the listener resets such connections.
    pub flows_lost: u64,
    /// DNS answers that enrolled workloads received over UDP.
    pub dns_answers: u64,
    /// Of these: from a server that the socket did not ask.
    pub dns_unasked: u64,
    /// Of the others: not about a Connector's host, or of no use.
    pub dns_ignored: u64,
    /// Addresses learned from the rest.
    pub learned: u64,
    /// Addresses not learned: the workload has learned as many as it may.
    pub learned_full: u64,
}

#[cfg(feature = "std")]
impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "connects={} untouched={} redirected={} bypassed={} refused_cred={} \
             refused_stale={} refused_sock={} refused_mem={} \
             refused_pending={} refused_udp={} flows={} flows_lost={} \
             dns_answers={} dns_unasked={} dns_ignored={} learned={} learned_full={}",
            self.connects,
            self.untouched,
            self.redirected,
            self.bypassed,
            self.refused_cred,
            self.refused_stale,
            self.refused_sock,
            self.refused_mem,
            self.refused_pending,
            self.refused_udp,
            self.flows,
            self.flows_lost,
            self.dns_answers,
            self.dns_unasked,
            self.dns_ignored,
            self.learned,
            self.learned_full,
        )
    }
}

/// Fails to compile when a type has another size than its fields add up to.
macro_rules! no_padding {
    ($($type:ident = $($size:literal)|+;)+) => {
        $(const _: () = assert!(size_of::<$type>() == 0 $(+ $size)+);)+
    };
}

no_padding! {
    WorkloadKey = 8;
    Workload = 4 | 2 | 2 | 4 | 4;
    DestinationKey = 4 | 16 | 2 | 2;
    Destination = 4 | 4;
    HostnameKey = 8 | 4 | 2 | 2;
    LearnedKey = 8 | 16;
    Learned = 32 | 8;
    Budget = 8 | 8;
    Asked = 64;
    CredentialKey = 4;
    Credential = 8 | 8 | 8 | 4 | 4;
    Origin = 8 | 16 | 4 | 2 | 2;
    SocketOrigin = 32 | 8;
    FlowKey = 8 | 16 | 2 | 2 | 4;
    FlowCount = 8;
    Config = 8 | 8 | 4 | 4 | 8 | 8;
    Stats = 136;
}

// What agents of other versions rely on.
const _: () = assert!(
    offset_of!(Config, heartbeat_ns) == 0
        && offset_of!(Config, grace_ns) == 8
        && offset_of!(Config, abi) == 16
        && offset_of!(Config, levels) == 24
        && offset_of!(Config, owner) == 32
);
const _: () = assert!(size_of::<WorkloadKey>() == size_of::<u64>());

#[cfg(feature = "aya")]
mod pod {
    #![expect(unsafe_code, reason = "aya reads and writes map values as bytes")]

    use super::{
        Asked, Budget, Config, Credential, CredentialKey, Destination, DestinationKey, FlowCount,
        FlowKey, HostnameKey, Learned, LearnedKey, Origin, SocketOrigin, Stats, Workload,
        WorkloadKey,
    };

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            $(
                // SAFETY: repr(C), integers only, every bit pattern valid, and no padding:
                // the assertions on the sizes above.
                unsafe impl aya::Pod for $type {}
            )+
        };
    }

    pod!(
        Asked,
        Budget,
        Config,
        Credential,
        CredentialKey,
        Destination,
        DestinationKey,
        FlowCount,
        FlowKey,
        HostnameKey,
        Learned,
        LearnedKey,
        Origin,
        SocketOrigin,
        Stats,
        Workload,
        WorkloadKey,
    );
}
