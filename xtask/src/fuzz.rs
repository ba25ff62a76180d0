//! Runs a fuzz target with libFuzzer.
//!
//! The coverage that guides it is a pass of LLVM that every compiler has, and the flags that
//! turn it on are stable; only the sanitizers of memory would need a nightly one. The targets
//! are safe code, in which overflows and indices are checked.

use std::env;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// The flags of `cargo fuzz --sanitizer none`.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Feeds a target this many inputs, starting from its corpus in the repository. What it finds
/// on the way stays below the target folder.
pub(crate) fn perform(workspace: &Workspace, target: &str, cases: u64) -> Result<()> {
    let seeds = workspace.root.join("fuzz/corpus").join(target);
    if !seeds.is_dir() {
        bail!("there is no fuzz target {target}: no {}", seeds.display());
    }
    // Naming the platform keeps the flags away from build scripts and macros.
    let platform = host(workspace)?;
    let folder = workspace.target.join("fuzz");
    let mut build = workspace.cargo(["build", "--package", "fuzz", "--release", "--bin", target]);
    build.args(["--target", &platform]);
    build.arg("--target-dir").arg(&folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    // It takes long, and makes nothing faster here.
    build.env("CARGO_PROFILE_RELEASE_LTO", "off");
    run::attached("fuzz", &mut build)?;

    let found = folder.join("corpus").join(target);
    let crashes = folder.join("artifacts").join(target);
    for path in [&found, &crashes] {
        std::fs::create_dir_all(path)?;
    }
    let mut fuzz = Command::new(folder.join(platform).join("release").join(target));
    fuzz.arg(format!("-runs={cases}"));
    fuzz.arg(format!("-artifact_prefix={}/", crashes.display()));
    fuzz.args(["-max_len=2048", "-print_final_stats=1", "-verbosity=0"]);
    fuzz.arg(found).arg(seeds);
    run::attached("fuzz", &mut fuzz)?;
    println!("fuzz: ok, {cases} cases for {target}");
    Ok(())
}

/// The platform of this machine, as the compiler calls it.
fn host(workspace: &Workspace) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(&workspace.root)
        .arg("-vV")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("rustc does not tell for what it builds"),
    }
}
