//! Between fork and exec: a process of its own, so that nothing of it runs in the memory of
//! a forked, multi-threaded one.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getppid},
};

use super::Bind;

const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What is to be done before the command.
#[derive(Debug)]
pub struct Plan {
    /// Process id of Postern.
    pub parent: i32,
    /// Soft limit of open files.
    pub open_files: u64,
    /// Directory of the cgroup to enter.
    pub cgroup: Option<PathBuf>,
    /// Files to cover.
    pub binds: Vec<Bind>,
}

/// Enters the cgroup, covers the files, and becomes the command. Returns only when that
/// fails.
pub fn enter(plan: &Plan, program: &OsStr, arguments: &[OsString]) -> Result<ExitCode> {
    let Plan {
        parent,
        open_files,
        cgroup,
        binds,
    } = plan;
    // Should Postern be killed, nothing is left that would serve the command.
    set_pdeathsig(Signal::SIGKILL).context("cannot tie the command's life to Postern's")?;
    if getppid() != Pid::from_raw(*parent) {
        bail!("Postern ended before the command could start");
    }
    SigSet::empty()
        .thread_set_mask()
        .context("cannot let signals through")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read a limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, (*open_files).min(hard), hard)
        .context("cannot restore the limit of open files")?;
    if let Some(cgroup) = cgroup {
        let procs = cgroup.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("cannot enter {}", cgroup.display()))?;
    }
    if !binds.is_empty() {
        cover(binds)?;
    }
    let Err(error) = exec(program, arguments);
    eprintln!("postern: cannot run {}: {error}", program.display());
    Ok(ExitCode::from(match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }))
}

/// Shows other files in place of some, in a mount namespace of our own.
fn cover(binds: &[Bind]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // The host's mounts still show up here, ours never show up there.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("cannot separate the mount namespace")?;
    for bind in binds {
        mount(
            Some(&bind.source),
            &bind.target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot cover {}", bind.target.display()))?;
    }
    Ok(())
}

fn exec(program: &OsStr, arguments: &[OsString]) -> Result<Infallible, std::io::Error> {
    Err(Command::new(program).args(arguments).exec())
}
