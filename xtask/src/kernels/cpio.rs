//! The archive that a kernel unpacks into its first file system: cpio in the `newc` format
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Types of files in a mode.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// The end of an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in memory, to which files are added with the folders that they are in.
#[derive(Clone, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    there: HashSet<PathBuf>,
}

impl Archive {
    /// Adds a folder.
    pub(super) fn directory(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if path.parent().is_some() && self.there.insert(path.to_path_buf()) {
            self.parent(path);
            self.entry(path, DIRECTORY | 0o755, &[]);
        }
    }

    /// Adds a file that everybody may read and execute.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, contents: &[u8]) {
        let path = path.as_ref();
        if self.there.insert(path.to_path_buf()) {
            self.parent(path);
            self.entry(path, FILE | 0o755, contents);
        }
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: impl AsRef<Path>, target: &str) {
        let path = path.as_ref();
        if self.there.insert(path.to_path_buf()) {
            self.parent(path);
            self.entry(path, SYMLINK | 0o777, target.as_bytes());
        }
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new(TRAILER), 0, &[]);
        self.bytes
    }

    fn parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        self.entries += 1;
        // Number, mode, links, owner, group, time, size, four numbers of devices, length of
        // the name with its end, checksum. Sizes above 4 GiB have no place in the format.
        let fields = [
            self.entries,
            mode,
            1,
            0,
            0,
            0,
            u32::try_from(contents.len()).expect("a file that fits into memory"),
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).expect("a path"),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length of what comes before a name.
    const HEADER: usize = 110;

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/a", b"12345");
        archive.file("/usr/bin/b", b"");
        archive.file("/usr/bin/b", b"again");
        archive.symlink("/bin", "usr/bin");
        let bytes = archive.finish();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |n: usize| {
                let start = at + 6 + 8 * n;
                let digits = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, length) = (field(6), field(11));
            names.push(
                String::from_utf8(bytes[at + HEADER..at + HEADER + length - 1].to_vec()).unwrap(),
            );
            at = (at + HEADER + length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(
            names,
            ["usr", "usr/bin", "usr/bin/a", "usr/bin/b", "bin", TRAILER]
        );
    }
}
