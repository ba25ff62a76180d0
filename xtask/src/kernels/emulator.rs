//! The emulator. A machine that has none gets one below the target folder: to install Debian's
//! may mean to remove packages that are there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::workspace::find_program;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// The releases of Debian that it comes from.
const SUITES: [&str; 2] = ["bookworm", "bookworm-security"];

/// Where the emulator is.
pub(super) struct Emulator {
    program: PathBuf,
    /// What it was unpacked to, unless it is installed.
    unpacked: Option<PathBuf>,
}

/// Finds the machine's, or one that was unpacked before, or unpacks one.
pub(super) fn find(folder: &Path) -> Result<Emulator> {
    if let Some(program) = find_program(PROGRAM) {
        return Ok(Emulator {
            program,
            unpacked: None,
        });
    }
    let root = folder.join("emulator");
    if !root.exists() {
        download(folder, &root).with_context(|| format!("install {PACKAGE} by hand"))?;
    }
    Ok(Emulator {
        program: root.join("usr/bin").join(PROGRAM),
        unpacked: Some(root),
    })
}

fn download(folder: &Path, root: &Path) -> Result<()> {
    let lists = folder.join("apt");
    let apt = Apt::beside_the_machine(&lists, &SUITES)?;
    apt.update("lists for the emulator")?;
    let unfinished = folder.join("emulator.part");
    fs::remove_dir_all(&unfinished).ok();
    apt.unpack_with_dependencies(PACKAGE, &[PACKAGE], &unfinished)?;
    fs::rename(&unfinished, root)
        .with_context(|| format!("cannot rename {}", unfinished.display()))?;
    fs::remove_dir_all(&lists).ok();
    Ok(())
}

impl Emulator {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.unpacked {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let libraries = libraries.map(|folder| root.join(folder).into_os_string());
            command.env("LD_LIBRARY_PATH", libraries.join(OsStr::new(":")));
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }
}
