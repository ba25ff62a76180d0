//! The maps, and what every program does with them.

use core::{arch::asm, ptr::NonNull};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_sock, bpf_sock_addr},
    btf_maps::{Array, HashMap, PerCpuArray, SkStorage},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use proxy_common::maps::{
    Asked, Budget, Config, Credential, CredentialKey, Destination, DestinationKey, FlowCount,
    FlowKey, HostnameKey, Learned, LearnedKey, MAX_CREDENTIALS, MAX_DESTINATIONS, MAX_FLOWS,
    MAX_HOSTNAMES, MAX_LEARNED, MAX_WORKLOADS, Origin, SocketOrigin, Stats, Workload, WorkloadKey,
};

use crate::dns::Scratch;

/// Enrolled workloads by the id of their cgroup.
#[btf_map]
pub(crate) static WORKLOADS: HashMap<WorkloadKey, Workload, MAX_WORKLOADS> = HashMap::new();

/// What each policy wants redirected.
#[btf_map]
pub(crate) static DESTINATIONS: HashMap<DestinationKey, Destination, MAX_DESTINATIONS> =
    HashMap::new();

/// What each policy wants redirected of the addresses that a host may have.
#[btf_map]
pub(crate) static HOSTNAMES: HashMap<HostnameKey, Destination, MAX_HOSTNAMES> = HashMap::new();

/// Addresses that workloads were told for these hosts. Not an LRU map: nobody's entries give
/// way to somebody else's.
#[btf_map]
pub(crate) static LEARNED: HashMap<LearnedKey, Learned, MAX_LEARNED> = HashMap::new();

/// How many of these each workload may have.
#[btf_map]
pub(crate) static BUDGETS: HashMap<WorkloadKey, Budget, MAX_WORKLOADS> = HashMap::new();

/// Name servers that a socket asked, one datagram each; lives and dies with the socket.
#[btf_map]
pub(crate) static ASKED: SkStorage<Asked> = SkStorage::new();

/// Room to look at a DNS answer.
#[btf_map]
pub(crate) static DNS_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Whether a Connector's credential can be used; never the secret.
#[btf_map]
pub(crate) static CREDENTIALS: HashMap<CredentialKey, Credential, MAX_CREDENTIALS> = HashMap::new();

/// Where a redirected socket wanted to go; lives and dies with the socket.
#[btf_map]
pub(crate) static ORIGINS: SkStorage<SocketOrigin> = SkStorage::new();

/// Redirected connections as the listener sees them. Has memory for those that there are.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, Origin, MAX_FLOWS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// How many of these each workload has.
#[btf_map]
pub(crate) static FLOW_COUNTS: HashMap<WorkloadKey, FlowCount, MAX_WORKLOADS> = HashMap::new();

/// How many each may have.
#[btf_map]
pub(crate) static FLOW_LIMIT: Array<i64, 1> = Array::new();

/// Settings, and the agent's sign of life.
#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();

/// Counters.
#[btf_map]
pub(crate) static STATS: PerCpuArray<Stats, 1> = PerCpuArray::new();

/// Adds one to a counter of [`STATS`].
macro_rules! count {
    ($field:ident) => {
        if let Some(stats) = $crate::maps::STATS.get_ptr_mut(0) {
            // SAFETY: the slot of this CPU; programs do not preempt each other on it.
            unsafe { (*stats).$field = (*stats).$field.wrapping_add(1) };
        }
    };
}
pub(crate) use count;

/// Adds to a counter that all CPUs share. `core` has no such operation for this target.
#[inline(always)]
pub(crate) unsafe fn atomic_add(counter: *mut i64, n: i64) {
    // SAFETY: the caller's pointer is valid and aligned; nothing else is touched.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {n}",
            counter = in(reg) counter,
            n = in(reg) n,
            options(nostack),
        );
    }
}

/// What is stored with a socket, if it was redirected; valid while the program runs.
#[inline(always)]
pub(crate) fn stored_origin(sk: *mut bpf_sock) -> Option<NonNull<SocketOrigin>> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is the context's socket and not null; without the create flag the helper
    // only looks up.
    let stored = unsafe {
        bpf_sk_storage_get(
            core::ptr::from_ref(&ORIGINS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
    };
    NonNull::new(stored.cast())
}

/// Where a socket wanted to go, if it was redirected.
#[inline(always)]
pub(crate) fn origin_of(sk: *mut bpf_sock) -> Option<Origin> {
    // SAFETY: the storage of this socket.
    stored_origin(sk).map(|stored| unsafe { (*stored.as_ptr()).origin })
}

/// The socket behind a `sock_addr` context.
#[inline(always)]
pub(crate) fn socket(ctx: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: `ctx` is the program's context.
    unsafe { (*ctx).__bindgen_anon_1.sk }
}
