//! Pods, as the node itself shows them: directories of the cgroup tree and processes.
//!
//! The kubelet makes a pod's cgroup before it asks the container runtime for anything, so a
//! pod is seen here before its first process runs.

mod name;
mod netns;
mod tree;
mod watch;

pub use name::PodUid;
pub use netns::{PodNetNs, find_netns, holds_process};
pub use tree::{PodCgroup, levels, outermost};
pub use watch::{PodEvent, PodWatcher};

use std::{io, path::PathBuf};

use nix::errno::Errno;

/// Why pods cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// No directory of the kubelet's.
    #[error(
        "no kubepods cgroup below {}: is this a node of a cluster, and is its cgroup tree \
         mounted here?",
        .0.display()
    )]
    NoKubepods(PathBuf),
    /// The kernel refuses to watch.
    #[error("cannot watch {}: {source}{}", path.display(), advice(source))]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A directory is there and cannot be read.
    #[error("cannot read the cgroup {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// What to do about the limits that the kernel's answer may stand for.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => "; raise the sysctl fs.inotify.max_user_watches",
        Some(Errno::EMFILE) => {
            "; raise the limit of open files of this process (LimitNOFILE of the container \
             runtime) or the sysctl fs.inotify.max_user_instances"
        }
        Some(Errno::ENFILE) => "; raise the sysctl fs.file-max",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_named() {
        for (errno, limit) in [
            (Errno::ENOSPC, "fs.inotify.max_user_watches"),
            (Errno::EMFILE, "fs.inotify.max_user_instances"),
            (Errno::ENFILE, "fs.file-max"),
        ] {
            let error = PodsError::Watch {
                path: "/sys/fs/cgroup/kubepods".into(),
                source: errno.into(),
            };
            assert!(error.to_string().ends_with(limit), "{error}");
        }
    }
}
