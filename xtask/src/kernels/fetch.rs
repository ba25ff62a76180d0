//! Kernels of Debian, unpacked below the target folder. One that is there is used as it is;
//! remove its folder to have the newest one again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Kernel;
use crate::apt::Apt;

/// A kernel that is there.
pub(super) struct Fetched {
    /// The image that boots.
    pub(super) kernel: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
}

/// Finds the kernels, and downloads those that are not there yet.
pub(super) fn all(folder: &Path, kernels: &[Kernel]) -> Result<Vec<Fetched>> {
    let missing: Vec<_> = kernels
        .iter()
        .filter(|kernel| !folder.join(kernel.version).exists())
        .collect();
    if !missing.is_empty() {
        download(folder, &missing)?;
    }
    kernels
        .iter()
        .map(|kernel| find(&folder.join(kernel.version)))
        .collect()
}

fn download(folder: &Path, kernels: &[&Kernel]) -> Result<()> {
    let suites: Vec<_> = kernels.iter().map(|kernel| kernel.suite).collect();
    let lists = folder.join("apt");
    let apt = Apt::new(&lists, &suites)?;
    apt.update(&format!("lists of Debian's {}", suites.join(", ")))?;
    for kernel in kernels {
        let packages = newest(&apt, kernel)?;
        let packages: Vec<_> = packages.iter().map(String::as_str).collect();
        // Under its name only when it is complete.
        let unfinished = folder.join(format!("{}.part", kernel.version));
        fs::remove_dir_all(&unfinished).ok();
        apt.unpack(&packages.join(" "), &packages, &unfinished)?;
        fs::rename(&unfinished, folder.join(kernel.version))
            .with_context(|| format!("cannot rename {}", unfinished.display()))?;
    }
    fs::remove_dir_all(&lists).ok();
    Ok(())
}

/// The packages of the newest kernel with that version, built for virtual machines.
fn newest(apt: &Apt, kernel: &Kernel) -> Result<Vec<String>> {
    let version = kernel.version.replace('.', "\\.");
    let (image, others) = kernel.packages.split_first().context("no package")?;
    let found = apt.search(&format!("{image}-{version}\\..*-cloud-amd64"))?;
    let newest = found.into_iter().max_by_key(|name| numbers(name));
    let newest = newest.with_context(|| {
        format!(
            "Debian's {} has no kernel {} any more",
            kernel.suite, kernel.version
        )
    })?;
    let others = others.iter().map(|other| newest.replacen(image, other, 1));
    let others: Vec<_> = others.collect();
    Ok([vec![newest], others].concat())
}

/// The numbers in a name, to sort by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Both places that Debian has had for a kernel.
fn find(root: &Path) -> Result<Fetched> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|folder| entry(&root.join(folder), ""))
        .with_context(|| format!("no modules below {}", root.display()))?;
    let kernel = entry(&root.join("boot"), "vmlinuz-")
        .or_else(|| entry(&modules, "vmlinuz"))
        .with_context(|| format!("no kernel below {}", root.display()))?;
    Ok(Fetched { kernel, modules })
}

/// The first entry of a folder whose name starts so.
fn entry(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(start)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_one_with_the_highest_numbers() {
        let names = [
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-32-cloud-amd64",
        ];
        assert!(numbers(names[0]) < numbers(names[1]));
        assert_eq!(
            numbers("linux-image-6.12.117+deb12-cloud-amd64"),
            [6, 12, 117, 12, 64]
        );
    }
}
