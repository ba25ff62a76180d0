//! The programs under test.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Where Postern's two programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `postern`.
    pub postern: PathBuf,
    /// `postern-controller`.
    pub controller: PathBuf,
}

impl Programs {
    /// Those in a folder.
    pub fn of(folder: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            ensure!(
                path.is_file(),
                "{} is missing: build it with `cargo build --package postern --package \
                 postern-controller`",
                path.display()
            );
            Ok(path)
        };
        Ok(Self {
            postern: find("postern")?,
            controller: find("postern-controller")?,
        })
    }

    /// Those that were built beside the running test.
    pub fn beside_this() -> Result<Self> {
        let this = env::current_exe().context("this program has no path")?;
        // target/debug/deps/<test>
        let folder = this.parent().and_then(Path::parent);
        Self::of(folder.context("this program is not in a target folder")?)
    }
}
