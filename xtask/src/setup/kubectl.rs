//! kubectl for the tests. Debian 12 has one from 2021, so it is taken from Debian 13, whose
//! package asks for nothing that Debian 12 lacks: downloaded with lists of its own and
//! unpacked below the target folder, so that the machine's packages stay as they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::workspace::Workspace;

/// The release of Debian that it comes from.
const SUITE: &str = "trixie";
/// The oldest minor version that the tests were run with.
const OLDEST: u32 = 32;
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Whether neither the machine nor the target folder has one that is new enough.
pub(crate) fn is_missing(workspace: &Workspace) -> bool {
    ![workspace.tool("kubectl"), "kubectl".into()]
        .iter()
        .any(|program| minor_version(program).is_some_and(|minor| minor >= OLDEST))
}

/// Downloads and unpacks it; needs no right.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let folder = workspace.tools().join("kubectl");
    fs::remove_dir_all(&folder).ok();
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(part))
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", archive()?);
    fs::write(folder.join("sources.list"), source).context("cannot write a sources list")?;

    let label = format!("kubectl of Debian's {SUITE} into target/tools");
    run::step(&label, apt(&folder).arg("update"))
        .context("the lists of Debian 13 cannot be fetched")?;
    run::step(&label, apt(&folder).args(["download", "kubectl"]))
        .context("kubectl cannot be downloaded; install version 1.32 or later by hand")?;
    let package = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .context("apt-get downloaded no package")?;
    let unpacked = folder.join("root");
    run::output(Command::new("dpkg").arg("-x").args([&package, &unpacked]))?;
    let tools = workspace.tool("kubectl");
    fs::create_dir_all(workspace.tools().join("bin"))?;
    fs::copy(unpacked.join("usr/bin/kubectl"), &tools)
        .with_context(|| format!("cannot write {}", tools.display()))?;
    fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// The archive that the machine itself uses.
fn archive() -> Result<String> {
    let targets = run::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian "))
        .filter_map(|line| line.split_once(' '))
        // Updates and security fixes have suites, and archives, of their own.
        .find(|(codename, _)| !codename.contains('-'))
        .map(|(_, archive)| archive.to_owned())
        .context(
            "apt-get knows no archive of Debian; run `apt-get update` as root, or install \
             kubectl 1.32 or later by hand",
        )
}

/// apt-get with lists, sources and downloads in `folder`, for which nothing is installed.
fn apt(folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.current_dir(folder).env("LC_ALL", "C");
    for (option, value) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache", "cache"),
    ] {
        let path = folder.join(value);
        command.args(["-o", &format!("{option}={}", path.display())]);
    }
    command.args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
    command.args(["-o", "Dir::State::status=/dev/null"]);
    // The folder may lie where apt's own user does not get to.
    command.args(["-o", "APT::Sandbox::User=root"]);
    command
}

/// `Client Version: v1.32.3` is 32.
fn minor_version(program: &Path) -> Option<u32> {
    let text = run::output(Command::new(program).args(["version", "--client"])).ok()?;
    let version = text.split("v1.").nth(1)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
