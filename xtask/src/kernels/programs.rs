//! What the tests start and read besides Postern. It is copied from the machine, libraries
//! included, into the file system of the emulated one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::run;
use crate::workspace::find_program;

/// To let a kernel test start another program, add its name to the line that says why, or make
/// a new line. Its libraries are found with `ldd`; files that it reads go to [`FILES`].
const PROGRAMS: &[&str] = &[
    // Shells of commands in pods, and of sandboxes.
    "bash", "sh", // Sandboxes, and commands in them.
    "ip", "mount", "nsenter", "setpriv", "sleep", "unshare",
    // Clients, what limits them, and what they are made of.
    "cat", "curl", "dd", "mkdir", "seq", "timeout", "wc", // Servers and their certificates.
    "nginx", "openssl", // What the kernel has.
    "bpftool", "ss", // The first process.
    BUSYBOX,
];

/// All that the first process starts.
pub(super) const BUSYBOX: &str = "busybox";

/// Read by the programs above, and copied as they are.
const FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/openssl.cnf",
    "/etc/nginx/mime.types",
];

/// Configuration of the machine, which knows nobody and nothing but itself.
const WRITTEN: &[(&str, &str)] = &[
    (
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\n\
         www-data:x:33:33::/:/bin/sh\n\
         nobody:x:65534:65534::/:/bin/sh\n",
    ),
    (
        "/etc/group",
        "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    ),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
];

/// Folders that have another name as well, as on every Debian.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// Folders that are there but empty.
const EMPTY: [&str; 8] = [
    "/dev",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var/lib/nginx",
    "/var/log/nginx",
];

/// Adds everything but the tests.
pub(super) fn add(archive: &mut Archive) -> Result<()> {
    for name in MERGED {
        archive.directory(format!("/usr/{name}"));
        archive.symlink(format!("/{name}"), &format!("usr/{name}"));
    }
    for folder in EMPTY {
        archive.directory(folder);
    }
    for (path, text) in WRITTEN {
        archive.file(path, text.as_bytes());
    }
    for path in FILES {
        archive.file(path, &read(Path::new(path))?);
    }
    for name in PROGRAMS {
        let program = find_program(name).with_context(|| format!("{name} is not installed"))?;
        add_program(archive, &program, &read(&program)?)?;
    }
    Ok(())
}

/// Adds a program at the place where it is on this machine, with its libraries; `contents` may
/// be a smaller copy.
pub(super) fn add_program(archive: &mut Archive, program: &Path, contents: &[u8]) -> Result<()> {
    archive.file(merged(program), contents);
    for library in libraries(program)? {
        archive.file(merged(&library), &read(&library)?);
    }
    Ok(())
}

/// What a program is linked with, and what links it; nothing for one that is linked already.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let output = ldd.output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The status says no more than that there is nothing to link.
    parse(&text).with_context(|| format!("{} cannot be copied", program.display()))
}

/// Lines are `name => /path (0x…)` or `/path (0x…)`.
fn parse(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in ldd.lines().map(str::trim) {
        anyhow::ensure!(!line.ends_with("not found"), "it lacks a library: {line}");
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if path.starts_with('/')
            && let Some((path, _)) = path.split_once(" (")
        {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Where a file is when `/bin` and its like are links.
fn merged(path: &Path) -> PathBuf {
    let is_link = MERGED
        .iter()
        .any(|name| path.starts_with(Path::new("/").join(name)));
    let below = path.strip_prefix("/").unwrap_or(path);
    Path::new(if is_link { "/usr" } else { "/" }).join(below)
}

/// A program without what only a debugger reads.
pub(super) fn stripped(program: &Path, to: &Path) -> Result<Vec<u8>> {
    run::output(Command::new("strip").arg("-o").arg(to).arg(program))?;
    let contents = read(to)?;
    fs::remove_file(to).ok();
    Ok(contents)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_or_missed() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = parse(text)
            .unwrap()
            .iter()
            .map(|path| merged(path))
            .collect();
        assert_eq!(
            found,
            [
                Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/usr/lib64/ld-linux-x86-64.so.2"),
            ]
        );
        assert!(parse("\tlibelf.so.1 => not found\n").is_err());
        assert!(parse("\tnot a dynamic executable\n").unwrap().is_empty());
    }
}
