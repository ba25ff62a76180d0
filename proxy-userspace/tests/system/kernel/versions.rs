//! Agents of different versions, whose maps have different layouts: each has a directory of its
//! own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use postern::{
    datapath::unload,
    limits,
    node::{Node, NodeError},
    state::{FailurePolicy, Scheme},
    tls::Roots,
};
use testkit::run_ok;
use tokio::{sync::oneshot, time::sleep};

use super::clients::{Client, Goal, Habit};
use crate::rig::{
    CURL_REFUSED, HOOKS, PATIENCE, Pod, SHARED_HOOKS, abi, connector, granted, policy, stretched,
};

/// Directory of an agent of another version, which has what is in ours.
fn of_another_version(pod: &Pod) -> Result<PathBuf> {
    let other = pod.pins().join("abi1");
    ensure!(other.file_name() != Some(abi().as_ref()));
    fs::rename(pod.pins().join(abi()), &other)?;
    Ok(other)
}

/// All hooks twice.
fn twice() -> Vec<&'static str> {
    HOOKS.into_iter().flat_map(|hook| [hook, hook]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_notices_that_the_next_agent_has_other_maps() -> Result<()> {
    let pod = Pod::new("versions")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut incumbent = pod.agent(&granted).await?;
    let other = of_another_version(&pod)?;
    let goal = Goal {
        ip: pod.host,
        port,
        body: format!("{} Bearer token", pod.host),
    };
    let mut clients = [Habit::Dial, Habit::Dial, Habit::Keep]
        .map(|habit| Client::start(&pod, habit, &goal).expect("a client"));

    let serving = tokio::spawn(async move {
        let end = incumbent.keep_up().await;
        (incumbent, end)
    });
    let mut newcomer = pod.take_over().await?;
    // It may take its time until it gives signs of life; the incumbent ends if it is dead.
    newcomer.set_grace(stretched(limits::GRACE))?;
    let (incumbent, end) = serving.await?;
    ensure!(matches!(end, NodeError::Replaced), "{end}");
    let drained = tokio::spawn(incumbent.drain(limits::HAND_OVER));
    newcomer.set_policies(policy(&granted), &Roots::none())?;
    newcomer.attach(pod.cgroup.directory())?;
    // While the workload is the incumbent's, for longer than the kernel waits for a sign of life.
    // It gives signs of life while the pod waits for an answer.
    let (end, ended) = oneshot::channel::<()>();
    let keeping_up = tokio::spawn(async move {
        tokio::select! {
            error = newcomer.keep_up() => Err(error),
            _ = ended => Ok(newcomer),
        }
    });
    for _ in 0..limits::GRACE.as_secs() + 2 {
        sleep(limits::HEARTBEAT).await;
        ensure!(pod.seen(&[&pod.url(port)])? == goal.body);
    }
    drop(end);
    let mut newcomer = keeping_up.await??;
    ensure!(
        newcomer.stats()?.redirected == 0,
        "two decide about a connection"
    );
    // It gives no more signs of life.
    newcomer.set_grace(PATIENCE)?;
    pod.enrol(&mut newcomer)?;
    pod.attaches(&twice()).await?;
    newcomer.forget_strangers(|_| false)?;
    ensure!(!other.exists());
    pod.attaches(&HOOKS).await?;
    ensure!(pod.seen(&[&pod.url(port)])? == goal.body);
    ensure!(newcomer.stats()?.redirected > 0);
    for client in &mut clients {
        client.check()?;
        ensure!(client.end()? > 0, "no answers");
    }
    drained.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_agent_of_another_version_refuses_stays_refused_until_it_is_served()
-> Result<()> {
    let pod = Pod::new("dead-version")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    drop(pod.agent(&granted).await?);
    let other = of_another_version(&pod)?;
    let mut next = pod.only_agent().await?;
    next.set_grace(PATIENCE)?;
    next.set_policies(policy(&granted), &Roots::none())?;
    next.attach(pod.cgroup.directory())?;
    let refused = pod.curl(&[&pod.url(port)])?;
    ensure!(refused.status.code() == Some(CURL_REFUSED), "{refused:?}");
    // From then on, whatever else there may be to wait for.
    pod.enrol(&mut next)?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    ensure!(other.exists());
    next.forget_strangers(|_| false)?;
    ensure!(!other.exists());
    pod.attaches(&HOOKS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_of_another_version_that_is_not_served_yet_stays_known() -> Result<()> {
    let pod = Pod::new("known")?;
    drop(pod.agent(&[]).await?);
    of_another_version(&pod)?;
    let mut next = pod.only_agent().await?;
    next.attach(pod.cgroup.directory())?;
    let id = pod.cgroup.id();
    // So the agent does not leave it alone.
    ensure!(next.has_entry(id) && !next.has_entry(id + 1));
    next.forget_strangers(|cgroup_id| cgroup_id == id)?;
    ensure!(next.has_entry(id));
    ensure!(entries(&pod, "WORKLOADS")? == 1);
    pod.enrol(&mut next)?;
    next.forget_strangers(|_| false)?;
    ensure!(entries(&pod, "WORKLOADS")? == 1);
    Ok(())
}

fn entries(pod: &Pod, map: &str) -> Result<usize> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned(map));
    let entries: serde_json::Value = serde_json::from_slice(&run_ok(dump)?.stdout)?;
    Ok(entries.as_array().map_or(0, Vec::len))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_longer_config_is_told_to_give_way() -> Result<()> {
    let pod = Pod::new("longer")?;
    let other = pod.pins().join("abi7");
    make_config(&other.join("CONFIG"), 64)?;
    let lock = Flock::lock(fs::File::open(&other)?, FlockArg::LockExclusive);
    let lock = lock.map_err(|(_, errno)| errno)?;
    let path = other.join("CONFIG");
    ensure!(owner_in(&path)? == 0);
    let gives_way = tokio::task::spawn_blocking(move || {
        for _ in 0..1000 {
            if owner_in(&path)? != 0 {
                drop(lock);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("nobody wants to take over")
    });
    let mut next = pod.take_over().await?;
    gives_way.await??;
    pod.serve(&mut next, &[])?;
    ensure!(!other.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_is_too_short_belongs_to_nobody() -> Result<()> {
    let pod = Pod::new("shorter")?;
    let other = pod.pins().join("abi0");
    make_config(&other.join("CONFIG"), 16)?;
    let _agent = pod.agent(&[]).await?;
    ensure!(!other.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unload_removes_all_versions_unless_one_of_them_runs() -> Result<()> {
    let pod = Pod::new("unload-all")?;
    drop(pod.agent(&[]).await?);
    let other = of_another_version(&pod)?;
    let mut next = pod.only_agent().await?;
    next.attach(pod.cgroup.directory())?;
    ensure!(unload(pod.pins()).is_err(), "an agent runs");
    drop(next);
    let lock = Flock::lock(fs::File::open(&other)?, FlockArg::LockExclusive);
    let error = unload(pod.pins())
        .err()
        .context("an agent runs")?
        .to_string();
    ensure!(
        error.contains("abi1") && error.contains("stop it first"),
        "{error}"
    );
    // Nobody is enrolled by the second.
    let mut hooks = [&HOOKS[..], &SHARED_HOOKS].concat();
    hooks.sort_unstable();
    pod.attaches(&hooks).await?;
    drop(lock);
    ensure!(unload(pod.pins())?.len() == 2);
    pod.attaches(&[]).await?;
    ensure!(!pod.pins().exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_open_connector_of_a_dead_version_is_served_by_the_next() -> Result<()> {
    let pod = Pod::new("open-version")?;
    let port = pod.upstream(Scheme::Http).await?;
    let mut connector = connector(1, pod.host, Scheme::Http, port, "token");
    connector.failure_policy = FailurePolicy::Open;
    let granted = [granted(connector)];
    pod.agent(&granted).await?.drain(limits::STOPPING).await;
    of_another_version(&pod)?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} nothing", pod.address));
    let _next: Node = pod.agent(&granted).await?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    Ok(())
}

/// The owner in a `CONFIG` of another layout, of which the kernel knows no names.
fn owner_in(path: &Path) -> Result<u64> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"]).arg(path);
    let config: serde_json::Value = serde_json::from_slice(&run_ok(dump)?.stdout)?;
    let bytes = config[0]["value"].as_array().context("no value")?;
    let mut owner = [0; 8];
    for (byte, found) in owner.iter_mut().zip(&bytes[32..]) {
        let hex = found.as_str().context("no byte")?.trim_start_matches("0x");
        *byte = u8::from_str_radix(hex, 16)?;
    }
    Ok(u64::from_ne_bytes(owner))
}

/// Pins a `CONFIG` whose values have a length.
fn make_config(path: &Path, value: usize) -> Result<()> {
    fs::create_dir_all(path.parent().context("no directory")?)?;
    let mut create = Command::new("bpftool");
    create.args(["map", "create"]).arg(path);
    create.args([
        "type", "array", "key", "4", "entries", "1", "name", "CONFIG",
    ]);
    create.args(["value", &value.to_string()]);
    run_ok(create).map(drop)
}
