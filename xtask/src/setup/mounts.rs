//! The two kernel file systems that Postern needs: bpffs and the unified cgroup hierarchy.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::MsFlags;

/// A file system that has to be mounted.
pub(crate) struct Mount {
    kind: &'static str,
    at: &'static str,
    options: Option<&'static str>,
}

/// Where the kernel's documentation and every tool expect it; what is pinned there is root's.
const BPFFS: Mount = Mount {
    kind: "bpf",
    at: "/sys/fs/bpf",
    options: Some("mode=0700"),
};
/// `/sys/fs/cgroup` may belong to the old hierarchies, so a place of our own.
const CGROUP2: Mount = Mount {
    kind: "cgroup2",
    at: "/run/postern/cgroup2",
    options: None,
};

/// The file systems that are mounted nowhere usable.
pub(crate) fn missing() -> Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .context("cannot read /proc/self/mountinfo; Postern needs Linux with /proc mounted")?;
    let mut missing = Vec::new();
    if !mounts(&table).any(|(at, kind)| kind == BPFFS.kind && at == BPFFS.at) {
        missing.push(BPFFS);
    }
    if !mounts(&table).any(|(_, kind)| kind == CGROUP2.kind) {
        missing.push(CGROUP2);
    }
    Ok(missing)
}

/// Mount point and file-system type of each line of a mountinfo table.
fn mounts(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        // The number of optional fields varies, hence the separator.
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    })
}

impl Mount {
    /// The command that does the same.
    pub(crate) fn command(&self) -> String {
        let Self { kind, at, options } = self;
        let options = options
            .map(|options| format!(" -o {options}"))
            .unwrap_or_default();
        format!("mkdir -p {at} && mount -t {kind}{options} {kind} {at}")
    }

    /// Mounts it.
    pub(crate) fn perform(&self) -> Result<()> {
        println!("set-up: {}", self.command());
        let failed = || {
            format!(
                "cannot mount {} at {}: the kernel must know it, and root in a container \
                 needs CAP_SYS_ADMIN",
                self.kind, self.at
            )
        };
        fs::create_dir_all(Path::new(self.at)).with_context(failed)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(
            Some(self.kind),
            self.at,
            Some(self.kind),
            flags,
            self.options,
        )
        .with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_and_without_optional_fields() {
        let table = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                     42 31 0:39 / /sys/fs/bpf rw shared:9 master:1 - bpf none rw,mode=700\n\
                     broken line\n";
        let found: Vec<_> = mounts(table).collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/unified", "cgroup2"),
                ("/sys/fs/bpf", "bpf")
            ]
        );
    }
}
