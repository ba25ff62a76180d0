//! Writes the manifests that are made from code, or checks those in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// Where the definitions of our kinds are, below the workspace's root.
const FOLDER: &str = "manifests/crds";
/// The one file there that is written by hand.
const BY_HAND: &str = "kustomization.yaml";

/// Writes them, or with `check` fails if that would change something.
pub(crate) fn perform(workspace: &Workspace, check: bool) -> Result<()> {
    let made = workspace.target.join(FOLDER);
    let kept = workspace.root.join(FOLDER);
    generate(workspace, &made)?;
    if check {
        compare(workspace, &made)?;
        println!("manifests: ok, as the API types make them");
    } else {
        let count = replace(&made, &kept)?;
        println!("manifests: {count} files written to {FOLDER}");
    }
    Ok(())
}

/// Runs the generator, which this crate does not link: it needs the Kubernetes libraries.
fn generate(workspace: &Workspace, made: &Path) -> Result<()> {
    if made.exists() {
        fs::remove_dir_all(made).with_context(|| format!("cannot empty {}", made.display()))?;
    }
    let mut generator = workspace.cargo(["run", "--package", "proxy-common", "--locked"]);
    generator.args(["--example", "crds", "--"]).arg(made);
    run::step("manifests from the API types", &mut generator)
}

/// Shows what differs.
fn compare(workspace: &Workspace, made: &Path) -> Result<()> {
    let mut diff = Command::new("diff");
    diff.current_dir(&workspace.root)
        .args(["--unified", "--recursive"])
        .arg(format!("--exclude={BY_HAND}"))
        .arg(FOLDER)
        .arg(made);
    let status = diff.status().context("cannot start diff")?;
    if !status.success() {
        bail!("{FOLDER} is not what the API types make; `cargo xtask manifests` writes it again");
    }
    Ok(())
}

/// Replaces all files but the one written by hand; returns how many there are now.
fn replace(made: &Path, kept: &Path) -> Result<usize> {
    fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
    for path in files(kept)? {
        if path.file_name().is_none_or(|name| name != BY_HAND) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let made = files(made)?;
    for path in &made {
        let name = path.file_name().context("a file without a name")?;
        fs::copy(path, kept.join(name))
            .with_context(|| format!("cannot write {}", kept.join(name).display()))?;
    }
    Ok(made.len())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
