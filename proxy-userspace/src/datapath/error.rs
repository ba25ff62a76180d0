use std::{
    io,
    path::{Path, PathBuf},
};

use crate::limits;
use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};
use nix::errno::Errno;
use proxy_common::maps::{MAX_CREDENTIALS, MAX_DESTINATIONS, MAX_WORKLOADS};

/// Why the kernel half does not run.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process may not use BPF.
    #[error(
        "not allowed to use eBPF: run as root (CAP_BPF and CAP_NET_ADMIN; before Linux 5.11 \
         CAP_SYS_RESOURCE as well)"
    )]
    NotAllowed,
    /// The kernel refused a program.
    #[error(
        "kernel {running} does not take the program {program}, which needs Linux {since} or \
         later with CONFIG_CGROUP_BPF: {source}"
    )]
    Program {
        /// Name of the program, which is that of its hook.
        program: &'static str,
        /// The first kernel that has the hook.
        since: &'static str,
        /// Release of the running kernel.
        running: String,
        /// What it answered.
        source: Box<ProgramError>,
    },
    /// The kernel refused the object before any program.
    #[error(
        "kernel {running} does not take the maps or type information of the eBPF object, which \
         needs Linux 5.8 or later: {source}"
    )]
    Load {
        /// Release of the running kernel.
        running: String,
        /// What it answered.
        source: Box<EbpfError>,
    },
    /// The object is not the one this binary was built with.
    #[error("the embedded eBPF object has no usable {name}: rebuild Postern")]
    Object {
        /// Map or program.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot access the eBPF map {name}: {source}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What the kernel answered.
        source: Box<MapError>,
    },
    /// A map has no room for another entry. What is in it stays in force.
    #[error(
        "the eBPF map {name} is full: one node has room for {} pods with Connectors, {} addresses \
         of Connectors over all combinations that pods are granted, and {} Connectors",
        MAX_WORKLOADS,
        MAX_DESTINATIONS,
        MAX_CREDENTIALS
    )]
    Full {
        /// Name of the map.
        name: &'static str,
    },
    /// Maps cannot be pinned there.
    #[error(
        "{} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf) and, in a \
         container, share it with the host", path.display()
    )]
    NoBpffs {
        /// Where they were to be pinned.
        path: PathBuf,
    },
    /// Something that is pinned could not be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Pins {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A program is attached, and its link has not got its name.
    #[error(
        "cannot name the link of a program that is attached {}: {source}; make room there, and start \
         the agent again: it finishes this", path.display()
    )]
    Settle {
        /// The name.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A workload's cgroup was removed and made again.
    #[error("{} is not the cgroup of the workload any more", path.display())]
    OtherCgroup {
        /// Where the workload's cgroup was.
        path: PathBuf,
    },
    /// Another agent serves this node, and does not give way.
    #[error(
        "another agent holds {}, and a node has one: stop it and start this one again, or replace \
         it with --take-over; one that does not give way to that within {} s is stuck: end it",
        path.display(), limits::TAKE_OVER.as_secs()
    )]
    Held {
        /// The directory with its lock.
        path: PathBuf,
    },
    /// An agent uses what is to be removed.
    #[error("an agent uses {}: stop it first", path.display())]
    Running {
        /// The directory with its lock.
        path: PathBuf,
    },
    /// There is nothing to look at.
    #[error(
        "no agent of this version has pinned anything below {}: is `postern agent` running on this \
         node, and is --pins the same?", path.display()
    )]
    NothingPinned {
        /// Where it would be.
        path: PathBuf,
    },
    /// Nothing but what another version has pinned.
    #[error(
        "{} was pinned by another version of Postern: use `postern explain` of that one",
        path.display()
    )]
    OtherVersion {
        /// Its directory.
        path: PathBuf,
    },
    /// A pinned map is not like this binary's.
    #[error(
        "the map pinned at {} was made by another version of Postern; stop its agent, remove \
         what it left with `postern unload`, and start this one", path.display()
    )]
    Layout {
        /// Where the map is pinned.
        path: PathBuf,
    },
    /// No random number can be had.
    #[error("the system has no random numbers")]
    Random,
    /// The clock cannot be read.
    #[error("cannot read the clock: {0}")]
    Clock(#[source] Errno),
}

impl DatapathError {
    pub(super) fn load(source: EbpfError) -> Self {
        if io_error(&source).is_some_and(is_permission) {
            return Self::NotAllowed;
        }
        Self::Load {
            running: running_kernel(),
            source: Box::new(source),
        }
    }

    pub(super) fn program(
        program: &'static str,
        since: &'static str,
        source: ProgramError,
    ) -> Self {
        if io_error(&source).is_some_and(is_permission) {
            return Self::NotAllowed;
        }
        Self::Program {
            program,
            since,
            running: running_kernel(),
            source: Box::new(source),
        }
    }

    pub(super) fn pins(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Pins {
            what,
            path: path.clone(),
            source,
        }
    }

    /// For an entry that could not be put into a map.
    pub(super) fn put(name: &'static str, source: MapError) -> Self {
        let errno = io_error(&source).and_then(io::Error::raw_os_error);
        match errno.map(Errno::from_raw) {
            Some(Errno::E2BIG | Errno::ENOMEM) => Self::Full { name },
            _ => Self::map(name, source),
        }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        Self::Map {
            name,
            source: Box::new(source),
        }
    }
}

/// Release of the running kernel, as `uname -r` prints it.
pub(super) fn running_kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "(unknown)".into(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

/// EPERM alone: the verifier says EACCES when it refuses a program.
fn is_permission(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EPERM as i32)
}

/// The first I/O error in a chain of sources.
fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        if let Some(SyscallError { io_error, .. }) = error.downcast_ref::<SyscallError>() {
            return Some(io_error);
        }
        next = error.source();
    }
    None
}
