//! Who is calling: cgroups as identities, network namespaces as places.

mod cgroup;
mod egress;
mod enrolment;
mod lineage;
mod netns;
pub mod pods;
mod sockets;

pub use cgroup::{Cgroup, CgroupError, hierarchy};
pub use egress::{Egress, EgressId};
pub use enrolment::Enrolment;
pub use lineage::Lineage;
pub use netns::{NetNs, NetNsError};
pub use sockets::Sockets;

/// Number of one distinct set of granted Connectors. 0 grants nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// Something whose connections Postern may redirect.
#[derive(Debug)]
pub struct Workload {
    /// Id of its own cgroup.
    pub cgroup_id: u64,
    /// How messages call it: a pod's name, or the command of `postern run`.
    pub name: String,
    /// What it is granted.
    pub policy: PolicyId,
}
