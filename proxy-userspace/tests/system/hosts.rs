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
/// those of its runtime and those of Postern, whichever looks at the file. The rest of the
/// process goes on with the machine's.
pub(crate) fn with_hosts(
    hosts: &[(IpAddr, &str)],
    test: impl AsyncFnOnce() -> Result<()> + Send,
) -> Result<()> {
    let mut text = String::new();
    for (ip, name) in hosts {
        writeln!(text, "{ip} {name}")?;
    }
    with_files(&[("/etc/hosts", &text)], test)
}

/// Runs a test whose only name server is at that address, with an empty `/etc/hosts`.
pub(crate) fn with_name_server(
    address: IpAddr,
    test: impl AsyncFnOnce() -> Result<()> + Send,
) -> Result<()> {
    let servers = format!("nameserver {address}\n");
    with_files(&[("/etc/resolv.conf", &servers), ("/etc/hosts", "")], test)
}

fn with_files(
    covered: &[(&str, &str)],
    test: impl AsyncFnOnce() -> Result<()> + Send,
) -> Result<()> {
    let files = TempDir::new("hosts")?;
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        // Mounts of the machine still show up here, this one never shows up there.
        bind(None, "/", MsFlags::MS_REC | MsFlags::MS_SLAVE)
            .context("cannot separate the mount namespace")?;
        for (n, (target, text)) in covered.iter().enumerate() {
            let file = files.write(n.to_string(), text)?;
            bind(file.to_str(), target, MsFlags::MS_BIND)
                .with_context(|| format!("cannot cover {target}"))?;
        }
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
