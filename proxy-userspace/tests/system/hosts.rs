//! Names that stand for addresses of a test's own, for Postern inside the test's process.

use std::{fmt::Write, net::IpAddr, thread};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use testkit::TempDir;
use tokio::runtime;

/// Runs a test that finds these names in `/etc/hosts`, and no others.
///
/// It has a thread and a mount namespace of its own, which all threads that it starts inherit:
/// those of its runtime, on which the system's resolver works, and those of Postern. The rest
/// of the process goes on with the machine's file.
pub(crate) fn with_hosts(
    hosts: &[(IpAddr, &str)],
    test: impl AsyncFnOnce() -> Result<()> + Send,
) -> Result<()> {
    let mut text = String::new();
    for (ip, name) in hosts {
        writeln!(text, "{ip} {name}")?;
    }
    let files = TempDir::new("hosts")?;
    let file = files.write("hosts", text)?;
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        // Mounts of the machine still show up here, this one never shows up there.
        bind(None, "/", MsFlags::MS_REC | MsFlags::MS_SLAVE)
            .context("cannot separate the mount namespace")?;
        bind(file.to_str(), "/etc/hosts", MsFlags::MS_BIND).context("cannot cover /etc/hosts")?;
        runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(test())
    };
    thread::scope(|scope| scope.spawn(run).join()).expect("no panic")
}

fn bind(source: Option<&str>, target: &str, flags: MsFlags) -> nix::Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
}
