//! Images made of this machine's programs, without a network.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::TempDir;
use testkit::command::stdout_of;

use crate::layout;

/// The image with a shell and the usual small programs; every node has it. Without a command
/// it sleeps, so it is the sandboxes' image as well.
pub const BUSYBOX: &str = "localhost/postern/busybox:latest";
/// The image of [`Image::client`].
pub const CLIENT: &str = "localhost/postern/client:latest";

/// Directories that are links, as in Debian and most other distributions.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

/// Files that programs expect. Without the last one glibc asks DNS before `/etc/hosts`.
const BASE_FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// An image with one layer that does not exist anywhere yet;
/// [`Node::import`](crate::Node::import) brings it to a node.
#[derive(Debug)]
pub struct Image {
    reference: String,
    files: TempDir,
}

impl Image {
    /// An image `localhost/postern/<name>:latest` with programs of this machine, each with
    /// the libraries that it is linked to, and busybox.
    pub fn from_programs(name: &str, programs: &[&str]) -> Result<Self> {
        let image = Self {
            reference: format!("localhost/postern/{name}:latest"),
            files: TempDir::new("image")?,
        };
        image.make_base()?;
        for program in programs {
            let program = find(program)?;
            image.add_program(&program, &program)?;
        }
        Ok(image)
    }

    /// [`BUSYBOX`].
    pub(crate) fn busybox() -> Result<Self> {
        Self::from_programs("busybox", &[])
    }

    /// [`CLIENT`]: skopeo, curl and git (over HTTP) besides busybox. They trust what this
    /// machine trusts.
    pub fn client() -> Result<Self> {
        let image = Self::from_programs("client", &["skopeo", "curl", "git"])?;
        let mut git = Command::new("git");
        git.arg("--exec-path");
        let helpers = PathBuf::from(stdout_of(git)?);
        for scheme in ["http", "https"] {
            let helper = helpers.join(format!("git-remote-{scheme}"));
            image.add_program(&helper, &helper)?;
        }
        let trust = "/etc/ssl/certs/ca-certificates.crt";
        let bundle = fs::read(trust).with_context(|| format!("cannot read {trust}"))?;
        image
            .with_file(trust, bundle)?
            .with_file(
                "/etc/containers/policy.json",
                r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
            )?
            .with_file("/var/tmp/.keep", "")
    }

    /// Adds a file that everybody can read; the path is absolute.
    pub fn with_file(self, path: &str, contents: impl AsRef<[u8]>) -> Result<Self> {
        let target = self.place(Path::new(path))?;
        fs::write(&target, contents).with_context(|| format!("cannot write {path}"))?;
        Ok(self)
    }

    /// What pods call it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn root(&self) -> PathBuf {
        self.files.join("root")
    }

    fn make_base(&self) -> Result<()> {
        let root = self.root();
        for name in MERGED {
            fs::create_dir_all(root.join("usr").join(name)).context("cannot make a folder")?;
            symlink(format!("usr/{name}"), root.join(name)).context("cannot make a link")?;
        }
        for name in ["etc", "root", "tmp", "var/tmp"] {
            fs::create_dir_all(root.join(name)).context("cannot make a folder")?;
        }
        for name in ["tmp", "var/tmp"] {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o1777))
                .context("cannot open a folder to everybody")?;
        }
        for (path, contents) in BASE_FILES {
            fs::write(root.join(path), contents).with_context(|| format!("cannot write {path}"))?;
        }
        let busybox = find("busybox")?;
        self.add_program(&busybox, Path::new("/usr/bin/busybox"))?;
        let mut list = Command::new(&busybox);
        list.arg("--list");
        for applet in stdout_of(list)?.lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("usr/bin").join(applet))
                .with_context(|| format!("cannot make a link {applet}"))?;
        }
        Ok(())
    }

    /// Copies a program to a path in the image, and the libraries that it is linked to.
    fn add_program(&self, program: &Path, path: &Path) -> Result<()> {
        let libraries = libraries(program)?;
        let libraries = libraries.iter().map(|library| (&**library, &**library));
        for (from, to) in libraries.chain([(program, path)]) {
            fs::copy(from, self.place(to)?)
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }

    /// Where a new file is in the image's folder: its parent is made, and what has its name is
    /// removed, because it may be a link.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            bail!("{} is not a plain absolute path", path.display());
        }
        let target = self.root().join(path.strip_prefix("/")?);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context("cannot make a folder")?;
        }
        match fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot replace {}", path.display()))
            }
            _ => Ok(target),
        }
    }

    /// Writes the image as an archive of an OCI layout.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        layout::archive(&self.files, &self.reference, &self.root())
    }
}

/// Where a program is.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no program {program}; run `cargo xtask setup`"))
}

/// The shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks a library:\n{text}", program.display());
    }
    // ldd fails for a static program, which has none.
    Ok(paths(&text).collect())
}

/// A line is `libc.so.6 => /lib/…/libc.so.6 (0x…)` or `/lib64/ld-linux… (0x…)`.
fn paths(listing: &str) -> impl Iterator<Item = PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let found: Vec<_> = paths(listing).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(paths("\tnot a dynamic executable\n").count(), 0);
    }

    #[test]
    fn a_path_that_leaves_the_image_is_refused() {
        let image = Image::from_programs("test", &[]).unwrap();
        assert!(image.with_file("/etc/../../x", "").is_err());
        assert!(find("no-such-program").is_err());
    }
}
