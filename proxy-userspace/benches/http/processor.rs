//! Who runs where, and what of a processor a process has had.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The processor that the proxies have for themselves.
pub(crate) const PROXY: usize = 0;
/// The one on which load and upstream are.
pub(crate) const OTHERS: usize = 1;

pub(crate) fn pin_this_thread(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot run on processor {processor}; two are needed"))
}

/// What all threads of a process have had, its children not included.
pub(crate) fn time_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name comes before, in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in it")?;
    // proc_pid_stat(5): utime and stime are the fields 14 and 15, the state is the third.
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u32>().context("no number"))
        .sum::<Result<_>>()?;
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("a clock without ticks")?;
    Ok(Duration::from_secs(1) * ticks / u32::try_from(hertz)?)
}

/// Resident memory, KiB.
pub(crate) fn memory_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    kib.context("no VmRSS")?
        .parse()
        .context("VmRSS is no number")
}
