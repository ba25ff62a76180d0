//! Modules of a kernel that the tests need where they are not built in.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// To have more, add them here with what needs them; those that they need come by themselves.
const WANTED: [&str; 4] = [
    // Links between a pod and its host.
    "veth",
    // `ss`.
    "inet_diag",
    "tcp_diag",
    "udp_diag",
];

/// A module, ready to be loaded.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) contents: Vec<u8>,
}

/// The modules in the order in which they are to be loaded. `folder` is the kernel's below
/// `lib/modules`.
pub(super) fn wanted(folder: &Path) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    find(&folder.join("kernel"), &mut files)
        .with_context(|| format!("cannot list {}", folder.display()))?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<_> = builtin
        .lines()
        .filter_map(|path| name(Path::new(path)))
        .collect();
    let mut loaded = Vec::new();
    for wanted in WANTED {
        add(wanted, &files, &builtin, &mut loaded)
            .with_context(|| format!("the module {wanted} of {}", folder.display()))?;
    }
    Ok(loaded)
}

/// Adds a module behind those that it needs, which are never in a circle.
fn add(
    wanted: &str,
    files: &HashMap<String, PathBuf>,
    builtin: &[String],
    loaded: &mut Vec<Module>,
) -> Result<()> {
    let there = loaded.iter().any(|module| module.name == wanted);
    if there || builtin.iter().any(|name| name == wanted) {
        return Ok(());
    }
    let file = files.get(wanted).context("is not there")?;
    let contents = read(file)?;
    for needed in needed(&contents) {
        add(&needed, files, builtin, loaded)
            .with_context(|| format!("{needed}, which it needs"))?;
    }
    loaded.push(Module {
        name: wanted.to_owned(),
        contents,
    });
    Ok(())
}

/// Files of all modules by name.
fn find(folder: &Path, files: &mut HashMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `net/ipv4/inet-diag.ko.xz` is `inet_diag`.
fn name(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let kind = file.extension().unwrap_or_default();
    if kind == "ko" {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    ensure!(
        kind == "xz",
        "{} is compressed in an unknown way",
        file.display()
    );
    let output = Command::new("xz").args(["-dc"]).arg(file).output();
    let output = output.context("cannot start xz")?;
    if !output.status.success() {
        bail!("xz cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// What a module says that it needs: `depends=a,b` in its section `.modinfo`.
fn needed(contents: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = contents.windows(FIELD.len()).position(|it| it == FIELD) else {
        return Vec::new();
    };
    let value = contents[at + FIELD.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        let contents = b"\x7fELF\0license=GPL\0depends=inet_diag,nf-core\0name=tcp_diag\0";
        assert_eq!(needed(contents), ["inet_diag", "nf_core"]);
        assert!(needed(b"license=GPL\0depends=\0name=veth\0").is_empty());
        assert_eq!(name(Path::new("net/inet-diag.ko.xz")).unwrap(), "inet_diag");
        assert!(name(Path::new("modules.order")).is_none());
    }
}
