//! What is attached to a cgroup.

use std::process::Command;

use anyhow::{Result, bail};

use crate::support::{output, stdout};

/// Names of the programs that links attach to a cgroup, in alphabetical order. `bpftool cgroup
/// list` would show them as well, but bpftool 7.1 shows none on Linux 5.10. One that is replaced
/// this moment may be missing.
pub(crate) fn attached(cgroup_id: u64) -> Result<Vec<String>> {
    let shown = |what: &str| -> Result<Vec<serde_json::Value>> {
        // It gives up when something that it lists, of whomever, goes meanwhile.
        for _ in 0..100 {
            let mut show = Command::new("bpftool");
            show.args(["--json", what, "show"]);
            let shown = output(show)?;
            if shown.status.success() {
                // Nothing at all when there is none.
                let text = stdout(&shown);
                return Ok(if text.is_empty() {
                    Vec::new()
                } else {
                    serde_json::from_str(&text)?
                });
            }
        }
        bail!("bpftool {what} show does not come to an end")
    };
    let links = shown("link")?;
    let programs = shown("prog")?;
    let mut names: Vec<_> = links
        .iter()
        .filter(|link| link["cgroup_id"] == cgroup_id)
        .filter_map(|link| {
            let program = programs.iter().find(|it| it["id"] == link["prog_id"])?;
            Some(program["name"].as_str()?.to_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The programs that are attached once all are, in alphabetical order.
pub(crate) const HOOKS: [&str; 8] = [
    "connect4",
    "connect6",
    "dns_ingress",
    "flows",
    "getpeername4",
    "getpeername6",
    "sendmsg4",
    "sendmsg6",
];

/// Those that are left when the workload is not served.
pub(crate) const SHARED_HOOKS: [&str; 5] = [
    "connect4",
    "connect6",
    "flows",
    "getpeername4",
    "getpeername6",
];
