//! The network namespace of a pod, found through one of its processes.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, ifaddrs::getifaddrs};

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
/// is in such a namespace. That nothing can be found out, for lack of descriptors or rights, is
/// an error.
pub fn find_netns(cgroup: &Path, ips: &[IpAddr]) -> Result<Option<PodNetNs>, NetNsError> {
    let path = Path::new("/proc/self/ns/net");
    let own = inode(path).map_err(|source| failed(path, source))?;
    let mut seen = Vec::new();
    for pid in processes(cgroup)? {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let Some(namespace) = unless_gone(&path, inode(&path))? else {
            continue;
        };
        if namespace == own || seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        let Some(file) = unless_gone(&path, File::open(&path))? else {
            continue;
        };
        let netns = NetNs::from(file);
        let holds = netns.run(|| holds(ips))?;
        if holds.map_err(NetNsError::Addresses)? {
            // The process may have changed its namespace since it was looked at.
            let inode = netns.inode().unwrap_or(namespace);
            return Ok(Some(PodNetNs { netns, inode }));
        }
    }
    Ok(None)
}

/// Whether a process is in a cgroup or below.
pub fn holds_process(cgroup: &Path, pid: u32) -> Result<bool, NetNsError> {
    Ok(processes(cgroup)?.contains(&pid))
}

/// Whether an interface of the current namespace has one of the addresses, or any that leads
/// out if none is known.
fn holds(ips: &[IpAddr]) -> nix::Result<bool> {
    let fits = |address: IpAddr| {
        if ips.is_empty() {
            !address.is_loopback() && !is_link_local(address)
        } else {
            ips.contains(&address)
        }
    };
    Ok(getifaddrs()?.any(|interface| {
        let address = interface.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        address.is_some_and(fits)
    }))
}

/// The kernel gives one to every interface that is up.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Processes of a cgroup and those below, oldest first as far as numbers tell.
fn processes(cgroup: &Path) -> Result<Vec<u32>, NetNsError> {
    let mut found = Vec::new();
    let mut directories = vec![cgroup.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let procs = directory.join("cgroup.procs");
        if let Some(pids) = unless_gone(&procs, fs::read_to_string(&procs))? {
            found.extend(pids.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        let below = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        directories.extend(
            unless_gone(&directory, below)?
                .into_iter()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found.sort_unstable();
    // 0 is a process that this one's namespace does not see.
    found.retain(|pid| *pid != 0);
    Ok(found)
}

fn inode(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|found| found.ino())
}

/// `None` when a process or cgroup has gone, or is one that has nothing to tell (the processes
/// of a threaded cgroup cannot be listed). What this process lacks is an error.
fn unless_gone<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, NetNsError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EACCES | Errno::EPERM) => {
                Err(failed(path, error))
            }
            _ => Ok(None),
        },
    }
}

fn failed(path: &Path, source: io::Error) -> NetNsError {
    NetNsError::Open {
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_descriptors_is_not_the_lack_of_a_process() {
        let read = |errno: Errno| unless_gone::<()>(Path::new("/proc/7/ns/net"), Err(errno.into()));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::EACCES] {
            let error = read(errno).expect_err("an error");
            assert!(error.to_string().contains("/proc/7/ns/net"), "{error}");
        }
        for errno in [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV] {
            assert!(matches!(read(errno), Ok(None)), "{errno}");
        }
    }
}
