//! The network namespace of a pod, found through one of its processes.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::ifaddrs::getifaddrs;

use crate::workload::{NetNs, NetNsError};

/// The network namespace of a pod.
#[derive(Debug)]
pub struct PodNetNs {
    /// The namespace.
    pub netns: NetNs,
    /// Inode number of its file, which tells it from all others that exist.
    pub inode: u64,
}

/// Finds the namespace of the pod whose cgroup is `cgroup`, by its addresses.
///
/// Processes of the container runtime pass through a pod's cgroup in namespaces of their own,
/// so a namespace counts only if one of the pod's `ips` is in it; as long as the pod has none,
/// any address but a loopback one, since runtimes set up the network before they start a
/// process. The oldest process is asked first. `None`: no process of the pod runs yet, or none
/// is in such a namespace.
pub fn find_netns(cgroup: &Path, ips: &[IpAddr]) -> Result<Option<PodNetNs>, NetNsError> {
    let own = inode(Path::new("/proc/self/ns/net"));
    let mut seen = Vec::new();
    for pid in processes(cgroup) {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        // Gone, or in the node's own namespace.
        let Some(namespace) = inode(&path).filter(|found| Some(*found) != own) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        let Ok(netns) = NetNs::open(&path) else {
            continue;
        };
        if netns.run(|| holds(ips))? {
            // The process may have changed its namespace since it was looked at.
            let inode = netns.inode().unwrap_or(namespace);
            return Ok(Some(PodNetNs { netns, inode }));
        }
    }
    Ok(None)
}

/// Whether a process is in a cgroup or below.
pub fn holds_process(cgroup: &Path, pid: u32) -> bool {
    processes(cgroup).contains(&pid)
}

/// Whether an interface of the current namespace has one of the addresses, or any that leads
/// out if none is known.
fn holds(ips: &[IpAddr]) -> bool {
    let fits = |address: IpAddr| {
        if ips.is_empty() {
            !address.is_loopback() && !is_link_local(address)
        } else {
            ips.contains(&address)
        }
    };
    getifaddrs().is_ok_and(|mut interfaces| {
        interfaces.any(|interface| {
            let address = interface.address.and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            });
            address.is_some_and(fits)
        })
    })
}

/// The kernel gives one to every interface that is up.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Processes of a cgroup and those below, oldest first as far as numbers tell.
fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut directories = vec![cgroup.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(procs.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found.sort_unstable();
    // 0 is a process that this one's namespace does not see.
    found.retain(|pid| *pid != 0);
    found
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}
