//! kubectl for the tests. Debian 12 has one from 2021, so it is taken from Debian 13, whose
//! package asks for nothing that Debian 12 lacks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::run;
use crate::workspace::Workspace;

/// The release of Debian that it comes from.
const SUITE: &str = "trixie";
/// The oldest minor version that the tests were run with.
const OLDEST: u32 = 32;

/// Whether neither the machine nor the target folder has one that is new enough.
pub(crate) fn is_missing(workspace: &Workspace) -> bool {
    ![workspace.tool("kubectl"), "kubectl".into()]
        .iter()
        .any(|program| minor_version(program).is_some_and(|minor| minor >= OLDEST))
}

/// Downloads and unpacks it; needs no right.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    const BY_HAND: &str = "install kubectl 1.32 or later by hand";
    let folder = workspace.tools().join("kubectl");
    let unpacked = folder.join("root");
    let label = format!("kubectl of Debian's {SUITE} into target/tools");
    let apt = Apt::new(&folder, &[SUITE]).context(BY_HAND)?;
    apt.update(&label).context(BY_HAND)?;
    apt.unpack(&label, &["kubectl"], &unpacked)
        .context(BY_HAND)?;
    let tools = workspace.tool("kubectl");
    fs::create_dir_all(workspace.tools().join("bin"))?;
    fs::copy(unpacked.join("usr/bin/kubectl"), &tools)
        .with_context(|| format!("cannot write {}", tools.display()))?;
    fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// `Client Version: v1.32.3` is 32.
fn minor_version(program: &Path) -> Option<u32> {
    let text = run::output(Command::new(program).args(["version", "--client"])).ok()?;
    let version = text.split("v1.").nth(1)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
