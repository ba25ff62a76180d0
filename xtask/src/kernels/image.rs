//! The file system of an emulated machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::fetch::Fetched;
use super::suite::Suite;
use super::{modules, programs};

/// Where the first process finds what it is to do.
const FOLDER: &str = "/postern";
const INIT: &str = include_str!("init.sh");

/// What is the same for every kernel.
pub(super) struct Base(Archive);

impl Base {
    pub(super) fn new(tests: &Suite) -> Result<Self> {
        let mut archive = Archive::default();
        programs::add(&mut archive)?;
        for program in [&tests.program, &tests.postern] {
            let contents = programs::stripped(program, &program.with_extension("stripped"))?;
            programs::add_program(&mut archive, program, &contents)?;
        }
        archive.file("/init", INIT.as_bytes());
        Ok(Self(archive))
    }
}

/// Writes the archive for one kernel. Whoever reads the results knows by `token` which lines
/// come from the first process and not from a test.
pub(super) fn write(
    path: &Path,
    base: &Base,
    fetched: &Fetched,
    tests: &Suite,
    token: &str,
) -> Result<()> {
    let mut archive = base.0.clone();
    let order = modules::wanted(&fetched.modules)?;
    for module in &order {
        archive.file(
            format!("{FOLDER}/modules/{}.ko", module.name),
            &module.contents,
        );
    }
    let order: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
    let program = tests.program.to_string_lossy();
    for (name, text) in [
        ("order", order.join("\n")),
        ("token", token.to_owned()),
        ("program", program.into_owned()),
        ("tests", tests.names.join("\n")),
    ] {
        archive.file(format!("{FOLDER}/{name}"), text.as_bytes());
    }
    fs::write(path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))
}

/// A word that no test can know.
pub(super) fn token() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}
