//! Packages of other releases of Debian: downloaded with lists of their own and unpacked below
//! the target folder, so that the machine's packages and lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// What apt verifies the archive's signatures with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists that no download needs: translations, and descriptions of desktop programs.
const NO_EXTRAS: [&str; 2] = [
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
];

/// A folder with sources, lists and downloads of its own.
pub(crate) struct Apt {
    folder: PathBuf,
    /// Packages that need no download, because they are installed.
    status: &'static str,
}

impl Apt {
    /// Starts anew in `folder`, for which nothing is installed, with these suites.
    pub(crate) fn new(folder: &Path, suites: &[&str]) -> Result<Self> {
        Self::with_status(folder, suites, "/dev/null")
    }

    /// The same for what is to run beside what the machine has installed.
    pub(crate) fn beside_the_machine(folder: &Path, suites: &[&str]) -> Result<Self> {
        Self::with_status(folder, suites, "/var/lib/dpkg/status")
    }

    fn with_status(folder: &Path, suites: &[&str], status: &'static str) -> Result<Self> {
        fs::remove_dir_all(folder).ok();
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let archives = Archives::of_the_machine()?;
        let sources = suites
            .iter()
            .map(|suite| {
                Ok(format!(
                    "deb [signed-by={KEYRING}] {} {suite} main\n",
                    archives.of(suite)?
                ))
            })
            .collect::<Result<String>>()?;
        fs::write(folder.join("sources.list"), sources).context("cannot write a sources list")?;
        Ok(Self {
            folder: folder.to_path_buf(),
            status,
        })
    }

    /// Fetches the lists of all suites.
    pub(crate) fn update(&self, label: &str) -> Result<()> {
        run::step(label, self.command("apt-get").arg("update"))
            .context("the package lists cannot be fetched; is the package archive reachable?")
    }

    /// Names of packages that match a regular expression as a whole.
    pub(crate) fn search(&self, name: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        search.args(["search", "--names-only", &format!("^{name}$")]);
        let found = run::output(&mut search)?;
        let name = |line: &str| line.split(' ').next().map(str::to_owned);
        Ok(found.lines().filter_map(name).collect())
    }

    /// Downloads packages and unpacks them into `root`.
    pub(crate) fn unpack(&self, label: &str, packages: &[&str], root: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.arg("download").args(packages);
        run::step(label, &mut download)
            .with_context(|| format!("cannot download {}", packages.join(" ")))?;
        unpack_all(&self.folder, root)
    }

    /// The same with all packages that the machine lacks for them, none of which is installed.
    pub(crate) fn unpack_with_dependencies(
        &self,
        label: &str,
        packages: &[&str],
        root: &Path,
    ) -> Result<()> {
        let mut download = self.command("apt-get");
        download.args([
            "install",
            "--yes",
            "--no-install-recommends",
            "--download-only",
        ]);
        run::step(label, download.args(packages))
            .with_context(|| format!("cannot download {}", packages.join(" ")))?;
        unpack_all(&self.folder.join("cache/archives"), root)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("LC_ALL", "C");
        for (option, value) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            let path = self.folder.join(value);
            command.args(["-o", &format!("{option}={}", path.display())]);
        }
        for option in NO_EXTRAS {
            command.args(["-o", option]);
        }
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        command.args(["-o", &format!("Dir::State::status={}", self.status)]);
        // The folder may lie where apt's own user does not get to.
        command.args(["-o", "APT::Sandbox::User=root"]);
        // Another apt may be at work, as it often is on a machine that was just started.
        command.args(["-o", "DPkg::Lock::Timeout=120"]);
        command
    }
}

/// Unpacks every package of a folder.
fn unpack_all(folder: &Path, root: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let packages: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "deb"))
        .collect();
    anyhow::ensure!(!packages.is_empty(), "apt-get downloaded no package");
    for package in &packages {
        run::output(Command::new("dpkg").arg("-x").arg(package).arg(root))?;
        fs::remove_file(package).with_context(|| format!("cannot remove {}", package.display()))?;
    }
    Ok(())
}

/// The archives that the machine itself uses.
struct Archives {
    main: String,
    security: Option<String>,
}

impl Archives {
    fn of_the_machine() -> Result<Self> {
        let targets = run::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(CODENAME) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let archive = |wanted: fn(&str) -> bool| {
            targets
                .lines()
                .filter_map(|line| line.strip_prefix("Debian "))
                .filter_map(|line| line.split_once(' '))
                .find(|(codename, _)| wanted(codename))
                .map(|(_, archive)| archive.to_owned())
        };
        Ok(Self {
            // Updates and security fixes have suites, and archives, of their own.
            main: archive(|codename| !codename.contains('-'))
                .context("apt-get knows no archive of Debian; run `apt-get update` as root")?,
            security: archive(|codename| codename.ends_with("-security")),
        })
    }

    fn of(&self, suite: &str) -> Result<&str> {
        if suite.ends_with("-security") {
            let security = self.security.as_deref();
            security.context("apt-get knows no archive of Debian's security fixes")
        } else {
            Ok(&self.main)
        }
    }
}
