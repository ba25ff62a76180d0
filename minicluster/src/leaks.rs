//! A search for secrets in everything that a cluster shows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use testkit::leaks::{Needle, check_maps};
use testkit::{base64, maps, proc};

use crate::world::{REGISTRY_ADDRESS, World};

/// All kinds of objects that the controller, the agent or a user of them could write to.
const KINDS: [(&str, &str); 10] = [
    ("v1", "configmaps"),
    ("v1", "events"),
    ("v1", "namespaces"),
    ("v1", "pods"),
    ("v1", "secrets"),
    ("v1", "serviceaccounts"),
    ("v1", "services"),
    ("coordination.k8s.io/v1", "leases"),
    ("connectors.postern.dev/v1alpha1", "connectors"),
    ("connectors.postern.dev/v1alpha1", "connectorclasses"),
];

/// The Secret that may hold what nothing else may.
const HOLDER: &str = "registry-login";

/// What was looked at, for a report.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// Objects of the API server.
    pub objects: usize,
    /// Maps of the kernel, and what is in them.
    pub maps: String,
    /// Variables and arguments of processes.
    pub words: usize,
    /// Files, logs among them.
    pub files: usize,
}

/// Every form in which a registry login could show up.
pub fn needles(user: &str, password: &str) -> Vec<Needle> {
    let form = |what: &str, text: String| (format!("the password{what}"), text);
    vec![
        form("", password.to_owned()),
        form(" in base64", base64::encode(password)),
        form(
            " as a Basic credential",
            base64::encode(format!("{user}:{password}")),
        ),
    ]
}

/// Fails when a secret is anywhere but in its Secret and in Postern's memory.
pub fn search(world: &World, needles: &[Needle]) -> Result<Looked> {
    Ok(Looked {
        objects: objects(world, needles)?,
        maps: kernel(world, needles)?,
        words: processes(world, needles)?,
        files: files(world, needles)?,
    })
}

fn objects(world: &World, needles: &[Needle]) -> Result<usize> {
    let mut count = 0;
    let mut held = false;
    for (version, kind) in KINDS {
        let objects = world.handle().objects(version, kind, "");
        for object in objects.map_err(|error| anyhow!("{kind}: {error:?}"))? {
            count += 1;
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let text = object.to_string();
            let found = find(text.as_bytes(), needles);
            if kind == "secrets" && name == HOLDER {
                held |= found.is_some();
                continue;
            }
            ensure!(found.is_none(), "{found:?} is in {kind} {name}");
        }
    }
    ensure!(
        held,
        "the search is broken: it does not find what is in the Secret"
    );
    Ok(count)
}

fn kernel(world: &World, needles: &[Needle]) -> Result<String> {
    let agent = world.agent.as_ref().context("no agent runs")?;
    let maps = maps::of_process(agent.pid())?;
    let address: std::net::Ipv4Addr = REGISTRY_ADDRESS.parse().context("not an address")?;
    check_maps(&maps, needles, &address.octets())
}

fn processes(world: &World, needles: &[Needle]) -> Result<usize> {
    let mut words = 0;
    for process in [&world.agent, &world.controller].into_iter().flatten() {
        let pid = process.pid();
        for (place, texts) in [
            ("environment", proc::environ(pid)?),
            ("command line", proc::cmdline(pid)?),
        ] {
            words += texts.len();
            for text in texts {
                let found = find(text.as_bytes(), needles);
                ensure!(
                    found.is_none(),
                    "{found:?} is in the {place} of process {pid}"
                );
            }
        }
    }
    Ok(words)
}

/// Logs of both programs, run directories, tokens, and the volumes of pods.
fn files(world: &World, needles: &[Needle]) -> Result<usize> {
    let mut count = 0;
    for root in [world.files.path(), &world.pins(), Path::new("/run/postern")] {
        for path in tree(root) {
            // A socket, a pin, or gone.
            let Ok(contents) = fs::read(&path) else {
                continue;
            };
            count += 1;
            let found = find(&contents, needles);
            ensure!(found.is_none(), "{found:?} is in {}", path.display());
        }
    }
    ensure!(count > 0, "no file could be looked at");
    Ok(count)
}

/// The name of the needle that is in there.
fn find(text: &[u8], needles: &[Needle]) -> Option<String> {
    needles
        .iter()
        .find(|(_, needle)| {
            text.windows(needle.len())
                .any(|window| window == needle.as_bytes())
        })
        .map(|(what, _)| what.clone())
}

fn tree(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}
