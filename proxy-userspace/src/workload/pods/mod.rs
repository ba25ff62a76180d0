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
    #[error("cannot watch {}: {source}; raise fs.inotify.max_user_instances", path.display())]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}
