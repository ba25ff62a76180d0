//! The test program, and which of its tests are for other kernels.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run;
use crate::workspace::Workspace;

/// The module of the tests.
const MODULE: &str = "kernel::";

/// What a machine is to run.
pub(super) struct Suite {
    /// The program.
    pub(super) program: PathBuf,
    /// `postern`, which the tests start at this place.
    pub(super) postern: PathBuf,
    /// The tests, each of which has to pass.
    pub(super) names: Vec<String>,
}

/// Builds the tests as `cargo test` does, and selects those whose names contain one of
/// `filters`; without filters all of them.
pub(super) fn build(workspace: &Workspace, filters: &[String]) -> Result<Suite> {
    if let Some(option) = filters.iter().find(|filter| filter.starts_with('-')) {
        bail!("{option}: on another kernel, tests are selected by parts of their names alone");
    }
    let mut build = workspace.cargo(["test", "--package", "postern", "--test", "system"]);
    build.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let messages = run::output_shown("build", &mut build)?;
    let program = executable(&messages, "system")?;
    let postern = executable(&messages, "postern")?;

    let mut list = Command::new(&program);
    list.args(["--list", "--format", "terse", MODULE]);
    let names = selected(&run::output(&mut list)?, filters);
    if names.is_empty() {
        bail!("no kernel test has {} in its name", filters.join(" or "));
    }
    Ok(Suite {
        program,
        postern,
        names,
    })
}

/// The program that cargo built for a target.
fn executable(messages: &str, target: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter(|program: &PathBuf| Path::new(program).is_file())
        .with_context(|| format!("cargo built no {target}"))
}

/// `list` has a line `name: test` for each.
fn selected(list: &str, filters: &[String]) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| name.starts_with(MODULE))
        .filter(|name| filters.is_empty() || filters.iter().any(|filter| name.contains(filter)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_tests_are_selected() {
        let list = "kernel::dns::lie: test\nnode::kernel::x: test\nkernel::decisions::v6: test\n";
        assert_eq!(
            selected(list, &[]),
            ["kernel::dns::lie", "kernel::decisions::v6"]
        );
        assert_eq!(selected(list, &["v6".into()]), ["kernel::decisions::v6"]);
        assert!(selected(list, &["node".into()]).is_empty());
    }

    #[test]
    fn programs_are_found_in_what_cargo_tells() {
        let me = std::env::current_exe().unwrap();
        let messages = format!(
            "{{\"target\":{{\"name\":\"system\"}},\"executable\":null}}\nnoise\n\
             {{\"target\":{{\"name\":\"system\"}},\"executable\":{:?}}}\n",
            me.to_str().unwrap()
        );
        assert_eq!(executable(&messages, "system").unwrap(), me);
        assert!(executable(&messages, "postern").is_err());
    }
}
