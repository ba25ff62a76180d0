//! Links that are taken over, and those that cannot be.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use postern::state::Scheme;
use testkit::{command::run_ok_with_input, run_ok};

use crate::rig::{HOOKS, Pod, SHARED_HOOKS, abi};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_stay_and_their_programs_are_replaced() -> Result<()> {
    let pod = Pod::new("in-place")?;
    drop(pod.agent(&[]).await?);
    let before = pod.links()?;
    ensure!(before.len() == HOOKS.len(), "{before:?}");
    drop(pod.agent(&[]).await?);
    let after = pod.links()?;
    ensure!(before.keys().eq(after.keys()), "{before:?}, then {after:?}");
    for (link, program) in &before {
        ensure!(after[link] != *program, "{before:?}, then {after:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_the_earlier_programs_are_back() -> Result<()> {
    let pod = Pod::new("undo")?;
    drop(pod.agent(&[]).await?);
    let before = pod.links()?;
    // The last one cannot be pinned when the others have been replaced.
    let link = link(&pod, "getpeername6");
    fs::remove_file(&link)?;
    let path = pod.pinned(&format!("new-getpeername6-{}", pod.cgroup.id()));
    let in_the_way = InTheWay::new(path)?;
    let failed = pod.agent(&[]).await;
    let error = failed.err().context("it attached")?.to_string();
    ensure!(error.contains("new-getpeername6"), "{error}");
    let after = pod.links()?;
    ensure!(after.len() == before.len() - 1, "{after:?}");
    // What each workload has of its own was attached before, and for itself.
    let changed = after
        .iter()
        .filter(|(link, program)| before[link] != **program);
    let own = HOOKS.len() - SHARED_HOOKS.len();
    ensure!(changed.count() == own, "{before:?}, then {after:?}");

    drop(in_the_way);
    drop(pod.agent(&[]).await?);
    pod.attaches(&HOOKS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_not_named_in_time_is_taken_over() -> Result<()> {
    let pod = Pod::new("not-named")?;
    drop(pod.agent(&[]).await?);
    let before = pod.links()?;
    // As if the agent had ended between attaching and naming; the second one leads nowhere.
    let id = pod.cgroup.id();
    let begun = pod.pinned(&format!("new-getpeername6-{id}"));
    fs::rename(link(&pod, "getpeername6"), &begun)?;
    let nowhere = pod.pinned(&format!("new-connect4-{}", id + 1));
    fs::rename(link(&pod, "connect4"), &nowhere)?;
    let mut next = pod.only_agent().await?;
    ensure!(!begun.exists() && !nowhere.exists());
    ensure!(link(&pod, "getpeername6").exists() && !link(&pod, "connect4").exists());
    pod.serve(&mut next, &[])?;
    pod.attaches(&HOOKS).await?;
    let after = pod.links()?;
    let kept = before.keys().filter(|link| after.contains_key(link));
    ensure!(
        kept.count() == HOOKS.len() - 1,
        "{before:?}, then {after:?}"
    );
    Ok(())
}

/// A directory where something is to be pinned; it goes with the value, whatever the test finds.
struct InTheWay(PathBuf);

impl InTheWay {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_leads_elsewhere_or_nowhere_is_replaced() -> Result<()> {
    let (pod, other) = (Pod::new("elsewhere")?, Pod::new("elsewhere-too")?);
    let port = pod.upstream(Scheme::Http).await?;
    let mut first = pod.agent(&[]).await?;
    first.attach(other.cgroup.directory())?;
    drop(first);
    // To another cgroup, of another hook, and to none.
    let to_other = pod.pinned(&format!("connect4-{}", other.cgroup.id()));
    fs::rename(to_other, link(&pod, "connect4"))?;
    fs::rename(link(&pod, "connect6"), link(&pod, "getpeername6"))?;
    let mut detach = Command::new("bpftool");
    detach
        .args(["link", "detach", "pinned"])
        .arg(link(&pod, "flows"));
    run_ok(detach)?;
    // A map is no link.
    fs::remove_file(link(&pod, "getpeername4"))?;
    let mut create = Command::new("bpftool");
    create
        .args(["map", "create"])
        .arg(link(&pod, "getpeername4"));
    create.args(["type", "array", "key", "4", "value", "8", "entries", "1"]);
    create.args(["name", "not_a_link"]);
    run_ok(create)?;

    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let _agent = pod.agent(&granted).await?;
    pod.attaches(&HOOKS).await?;
    other.attaches(&[]).await?;
    ensure!(pod.links()?.len() == HOOKS.len());
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_come_and_go_with_the_version() -> Result<()> {
    let pod = Pod::new("hooks")?;
    drop(pod.agent(&[]).await?);
    // An older one had no such hook; a newer one has one that is not known here.
    fs::rename(link(&pod, "connect6"), link(&pod, "of_the_future"))?;
    drop(pod.agent(&[]).await?);
    pod.attaches(&HOOKS).await?;
    ensure!(!link(&pod, "of_the_future").exists());
    Ok(())
}

/// Where a link to the pod's cgroup is pinned.
fn link(pod: &Pod, hook: &str) -> PathBuf {
    pod.pinned(&format!("{hook}-{}", pod.cgroup.id()))
}

impl Pod {
    /// The links to the pod's cgroup: from their ids to those of their programs.
    pub(super) fn links(&self) -> Result<BTreeMap<u64, u64>> {
        links_of(&self.pins().join(abi()), self.cgroup.id())
    }
}

/// The links in a directory that a cgroup has: from their ids to those of their programs.
pub(super) fn links_of(directory: &Path, cgroup_id: u64) -> Result<BTreeMap<u64, u64>> {
    let mut batch = String::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.to_string_lossy();
        if entry.file_type()?.is_file() && name.ends_with(&format!("-{cgroup_id}")) {
            writeln!(batch, "link show pinned {name}")?;
        }
    }
    let mut show = Command::new("bpftool");
    show.args(["--json", "batch", "file", "-"]);
    let shown = run_ok_with_input(show, batch.as_bytes())?;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let links = shown.as_array().into_iter().flatten();
    let links = links.map(|shown| &shown["output"]);
    links
        .filter(|link| link["cgroup_id"].as_u64() == Some(cgroup_id))
        .map(|link| Ok((number(&link["id"])?, number(&link["prog_id"])?)))
        .collect()
}

fn number(value: &serde_json::Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("no number: {value}"))
}
