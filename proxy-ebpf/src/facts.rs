//! What the decision depends on, as the kernel knows it.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns, bpf_ktime_get_ns,
    },
};
use proxy_common::{
    decision::{Callers, Facts},
    maps::{
        Config, Credential, CredentialKey, Destination, DestinationKey, HostnameKey, Learned,
        LearnedKey, NAMES_PER_ADDRESS, Workload, WorkloadKey,
    },
};

use crate::maps::{CONFIG, CREDENTIALS, DESTINATIONS, HOSTNAMES, LEARNED, WORKLOADS, socket};

/// A call of the current task on a socket.
pub(crate) struct Call(pub(crate) *mut bpf_sock_addr);

impl Callers for Call {
    #[inline(always)]
    fn ancestor(&self, level: u8) -> u64 {
        // SAFETY: no argument to get wrong.
        unsafe { bpf_get_current_ancestor_cgroup_id(i32::from(level)) }
    }

    #[inline(always)]
    fn workload(&self, cgroup_id: u64) -> Option<Workload> {
        workload(cgroup_id)
    }
}

impl Facts for Call {
    type Learned = *mut Learned;

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn destination(&self, key: DestinationKey) -> Option<Destination> {
        // SAFETY: copied before anything can change the map entry.
        unsafe { DESTINATIONS.get(key) }.copied()
    }

    #[inline(always)]
    fn hostname(&self, key: HostnameKey) -> Option<Destination> {
        // SAFETY: copied before anything can change the map entry.
        unsafe { HOSTNAMES.get(key) }.copied()
    }

    #[inline(always)]
    fn learned(&self, key: LearnedKey) -> Option<*mut Learned> {
        LEARNED.get_ptr_mut(key)
    }

    #[inline(always)]
    fn names(&self, learned: *mut Learned) -> [u64; NAMES_PER_ADDRESS] {
        // SAFETY: an entry of this workload, read word by word.
        unsafe { (*learned).names }
    }

    #[inline(always)]
    fn dialled(&self, learned: *mut Learned) {
        // SAFETY: an aligned field of an entry; takes no argument.
        unsafe { (*learned).seen_ns = bpf_ktime_get_ns() };
    }

    #[inline(always)]
    fn credential(&self, connector: u32) -> Option<Credential> {
        // SAFETY: copied at once.
        unsafe { CREDENTIALS.get(CredentialKey { connector }) }.copied()
    }

    #[inline(always)]
    fn is_bound_to_device(&self) -> bool {
        let sk = socket(self.0);
        // SAFETY: the socket of a sock_addr context is never null.
        unsafe { (*sk).bound_dev_if != 0 }
    }

    #[inline(always)]
    fn monotonic_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

/// The entry of a workload.
#[inline(always)]
pub(crate) fn workload(cgroup_id: u64) -> Option<Workload> {
    // SAFETY: copied at once.
    unsafe { WORKLOADS.get(WorkloadKey { cgroup_id }) }.copied()
}
