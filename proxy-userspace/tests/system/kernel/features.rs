//! What the running kernel can do, and what it makes of the programs.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use postern::datapath::Features;

use super::rig::Rig;
use crate::{
    rig::HOOKS,
    support::{output, stderr, stdout},
};

#[test]
fn a_refusal_is_told_as_well_as_the_kernel_can() -> Result<()> {
    let mut rig = Rig::with_grace("error", 0)?;
    rig.redirect(&["198.51.100.7", "2001:db8::7"], 0)?;
    let features = Features::probe();
    ensure!(
        features.chosen_error == (kernel()? >= (5, 18)),
        "{features:?}"
    );
    let expected = if features.chosen_error {
        "Connection refused"
    } else {
        "Operation not permitted"
    };
    for address in ["198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7"] {
        let mut shell = rig.sandbox.command("bash");
        shell.env("LC_ALL", "C").arg("-c");
        shell.arg("echo 0 > \"$0/cgroup.procs\" && exec 3<>\"/dev/tcp/$1/80\"");
        shell.arg(rig.cgroup.path()).arg(address);
        let told = stderr(&output(shell)?);
        ensure!(told.contains(expected), "{address}: {told}");
    }
    ensure!(rig.stats()?.refused_stale == 3);
    Ok(())
}

/// The first two numbers of the running kernel's release.
fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.');
    let mut number = || -> Result<u32> { Ok(numbers.next().context("too short")?.parse()?) };
    Ok((number()?, number()?))
}

/// How many instructions the verifier looks at for one program, at most; a million is the end.
const VERIFIED: u64 = 100_000;

#[test]
fn no_program_comes_near_what_the_verifier_looks_at() -> Result<()> {
    let _rig = Rig::new("verifier")?;
    for name in HOOKS {
        let programs = own_programs(name)?;
        let program = programs.first().with_context(|| format!("no {name}"))?;
        let verified = field(program, "verified_insns:");
        // Linux 5.16 and later tell.
        ensure!(verified.is_some() == (kernel()? >= (5, 16)), "{name}");
        println!("{name}: {verified:?} instructions verified");
        ensure!(verified < Some(VERIFIED), "{name}: {verified:?}");
    }
    Ok(())
}

/// What fdinfo tells of the programs of that name that this process has open: this test's, and
/// those of other ones, which come and go.
pub(super) fn own_programs(name: &str) -> Result<Vec<String>> {
    let mut show = Command::new("bpftool");
    show.args(["--json", "prog", "show"]);
    let programs: serde_json::Value = serde_json::from_str(&stdout(&output(show)?))?;
    let programs = programs.as_array().into_iter().flatten();
    let named: Vec<_> = programs
        .filter(|program| program["name"] == name)
        .filter_map(|program| program["id"].as_u64())
        .collect();
    // A link tells of its program as well, but not of what type it is.
    let is_named = |text: &String| {
        field(text, "prog_type:").is_some()
            && field(text, "prog_id:").is_some_and(|id| named.contains(&id))
    };
    Ok(fdinfo()?.filter(is_named).collect())
}

/// What the kernel tells of each descriptor of this process. Other tests come and go meanwhile.
pub(super) fn fdinfo() -> Result<impl Iterator<Item = String>> {
    let entries = fs::read_dir("/proc/self/fdinfo")?;
    Ok(entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok()))
}

/// A number in fdinfo, by the name in front of it.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
