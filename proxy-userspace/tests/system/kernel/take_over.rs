//! Agents that come and go, and workloads that do not notice.

use std::{fs, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use postern::{
    datapath::{Succession, unload},
    limits,
    node::{Node, NodeError},
    state::{FailurePolicy, Scheme},
    tls::Roots,
};
use testkit::{TempDir, command::stdout_of, run_ok};
use tokio::time::sleep;

use crate::{
    rig::{CURL_REFUSED, HOOKS, Pod, abi, policy, stretched},
    support::{output, stderr, stdout},
};

/// Connections that are made one after the other, for as long as a file exists.
const DIALS: &str = "while test -e \"$3\"; do \
    test \"$(curl --silent --max-time 20 --noproxy '*' \"$1\")\" = \"$2\" || exit 1; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_notices_that_an_agent_is_replaced() -> Result<()> {
    let pod = Pod::new("replace")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let expected = format!("{host} Bearer token");
    let mut incumbent = pod.agent(&granted).await?;
    pod.attaches(&HOOKS).await?;
    let mut open = pod.open(port)?;
    ensure!(open.get(&host)?.body == expected);
    let files = TempDir::new("dials")?;
    let go_on = files.write("go-on", "")?;
    let stop = go_on.to_str().context("a path that is no text")?;
    let mut dials = pod
        .command(DIALS, &[&pod.url(port), &expected, stop])
        .spawn()?;

    // Until it is told to go.
    incumbent.set_grace(stretched(limits::GRACE))?;
    let first = tokio::spawn(async move {
        let end = incumbent.keep_up().await;
        (incumbent, end)
    });
    let mut newcomer = pod.take_over().await?;
    newcomer.set_grace(stretched(limits::GRACE))?;
    let (mut incumbent, end) = first.await?;
    ensure!(matches!(end, NodeError::Replaced), "{end}");
    ensure!(matches!(
        incumbent.withdraw(pod.cgroup.id()),
        Err(NodeError::Replaced)
    ));
    let drained = tokio::spawn(incumbent.drain(limits::HAND_OVER));
    // The incumbent serves until the newcomer does.
    ensure!(open.get(&host)?.body == expected);
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    pod.serve(&mut newcomer, &granted)?;
    pod.attaches(&HOOKS).await?;

    // Told to come again at some time, the client does not lose an answer until then.
    newcomer.set_grace(stretched(limits::GRACE))?;
    let second = tokio::spawn(async move { newcomer.keep_up().await });
    while !open.get(&host)?.closes {
        sleep(Duration::from_millis(10)).await;
    }
    open.ended()?;
    drained.await?;
    fs::remove_file(&go_on)?;
    let dialled = tokio::task::spawn_blocking(move || dials.wait()).await??;
    ensure!(dialled.success(), "a connection failed during the change");
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    second.abort();
    let _ = second.await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_connectors_refuse_until_the_next_agent_serves() -> Result<()> {
    let pod = Pod::new("crash")?;
    let port = pod.upstream(Scheme::Http).await?;
    let expected = format!("{} Bearer token", pod.host);
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut agent = pod.agent(&granted).await?;
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    agent.set_grace(limits::GRACE)?;
    // As by a crash, but for its listeners nothing of it goes.
    drop(agent);
    pod.attaches(&HOOKS).await?;
    while !refused_as_stale(&pod)? {
        let refused = pod.curl(&[&pod.url(port)])?;
        ensure!(refused.status.code() == Some(CURL_REFUSED), "{refused:?}");
        sleep(Duration::from_millis(100)).await;
    }

    let mut next = pod.take_over().await?;
    pod.serve(&mut next, &granted)?;
    pod.attaches(&HOOKS).await?;
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    ensure!(next.stats()?.refused_stale > 0, "the counters go on");
    Ok(())
}

/// Whether the kernel has refused a connection because nobody gives signs of life.
pub(super) fn refused_as_stale(pod: &Pod) -> Result<bool> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned("STATS"));
    let stats: serde_json::Value = serde_json::from_str(&stdout_of(dump)?)?;
    let per_cpu = stats[0]["formatted"]["values"]
        .as_array()
        .context("no counters")?;
    Ok(per_cpu
        .iter()
        .any(|cpu| cpu["value"]["refused_stale"].as_u64() > Some(0)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_redirected_stays_so_until_names_are_resolved_anew() -> Result<()> {
    let pod = Pod::new("inherit")?;
    let port = pod.upstream(Scheme::Http).await?;
    let gone = pod.connector(1, Scheme::Http, port, "token");
    drop(pod.agent(&[gone]).await?);
    let mut next = pod.take_over().await?;
    pod.serve(&mut next, &[])?;
    // To the proxy, which passes it through: no Connector is granted any more.
    let direct = format!("{} nothing", pod.address);
    ensure!(pod.seen(&[&pod.url(port)])? == direct);
    ensure!(next.stats()?.redirected == 1);
    // A name that does not resolve may have been at any of the addresses.
    let mut unknown = pod.connector(2, Scheme::Https, 443, "token");
    let mut connector = Arc::try_unwrap(unknown.connector).expect("nobody else has it");
    connector.address.host = "postern.invalid".into();
    unknown.connector = Arc::new(connector);
    next.set_policies(policy(&[unknown]), &Roots::none())?;
    next.resolve().await?;
    ensure!(pod.seen(&[&pod.url(port)])? == direct);
    ensure!(next.stats()?.redirected == 2);
    next.set_policies(policy(&[]), &Roots::none())?;
    next.resolve().await?;
    ensure!(pod.seen(&[&pod.url(port)])? == direct);
    ensure!(next.stats()?.redirected == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_open_connector_is_reached_directly_until_its_workload_is_served() -> Result<()> {
    let pod = Pod::new("open")?;
    let port = pod.upstream(Scheme::Http).await?;
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
    connector.failure_policy = FailurePolicy::Open;
    granted.connector = Arc::new(connector);
    let granted = [granted];
    let (direct, served) = (
        format!("{} nothing", pod.address),
        format!("{} Bearer token", pod.host),
    );
    let mut first = pod.agent(&granted).await?;
    ensure!(pod.seen(&[&pod.url(port)])? == served);
    first.set_grace(limits::GRACE)?;
    // Without a successor.
    first.drain(limits::STOPPING).await;
    ensure!(pod.seen(&[&pod.url(port)])? == direct);
    let mut next = pod.take_over().await?;
    next.resolve().await?;
    ensure!(
        pod.seen(&[&pod.url(port)])? == direct,
        "nobody serves it yet"
    );
    pod.serve(&mut next, &granted)?;
    ensure!(pod.seen(&[&pod.url(port)])? == served);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_gives_up_leaves_the_incumbent_in_charge() -> Result<()> {
    let pod = Pod::new("give-up")?;
    let mut incumbent = pod.agent(&[]).await?;
    let before = owner(&pod)?;
    let waiting = {
        let (proxy, levels) = (pod.proxy()?, pod.cgroup.levels().to_vec());
        let pins = pod.pins().to_path_buf();
        let succession = Succession::TakeOver;
        tokio::spawn(async move {
            let taken = Node::take_over(proxy, &levels, &pins, succession).await;
            taken.map(drop)
        })
    };
    // The incumbent does not look meanwhile.
    while owner(&pod)? == before {
        sleep(Duration::from_millis(10)).await;
    }
    waiting.abort();
    ensure!(waiting.await.is_err_and(|error| error.is_cancelled()));
    ensure!(owner(&pod)? == before);
    incumbent.resolve().await?;
    incumbent.set_policies(policy(&[]), &Roots::none())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_way_to_a_newcomer_that_cannot_run() -> Result<()> {
    let pod = Pod::new("cannot")?;
    let mut incumbent = pod.agent(&[]).await?;
    let before = owner(&pod)?;
    // A map that the newcomer cannot use.
    let path = pod.pinned("STATS");
    fs::remove_file(&path)?;
    let mut create = Command::new("bpftool");
    create.args(["map", "create"]).arg(&path);
    create.args(["type", "array", "key", "4", "value", "8", "entries", "1"]);
    create.args(["name", "STATS"]);
    run_ok(create)?;
    let taken = pod.take_over().await;
    let error = taken.err().context("it started")?.to_string();
    ensure!(error.contains("STATS"), "{error}");
    ensure!(owner(&pod)? == before, "it announced itself");
    incumbent.set_policies(policy(&[]), &Roots::none())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_does_not_start_unless_it_is_to_take_over() -> Result<()> {
    let pod = Pod::new("second")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut first = pod.agent(&granted).await?;
    let (before, links) = (owner(&pod)?, pod.links()?);
    let error = pod.node(Succession::Refuse).await.err();
    let error = error.context("it started")?.to_string();
    let directory = pod.pins().join(abi()).display().to_string();
    for part in [&directory, "stop it", "--take-over"] {
        ensure!(error.contains(part), "{error}");
    }
    // The program says so before it does anything that the other one could notice.
    let files = TempDir::new("second")?;
    let run = files.join("run");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_postern"));
    agent.args(["agent", "--node=node", "--controller=127.0.0.1:1", "--pins"]);
    agent.arg(pod.pins()).arg("--run-dir").arg(&run);
    agent.env_remove("POSTERN_TAKE_OVER");
    let refused = output(agent)?;
    ensure!(refused.status.code() == Some(125), "{refused:?}");
    ensure!(stderr(&refused).contains(&error), "{refused:?}");
    ensure!(!run.exists());

    ensure!(
        owner(&pod)? == before && pod.links()? == links,
        "it noticed"
    );
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    first.set_policies(policy(&granted), &Roots::none())?;
    drop(first);
    // The lock of an agent that is gone is no obstacle.
    pod.only_agent().await.map(drop)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_goes_on_when_the_one_that_wanted_its_place_dies() -> Result<()> {
    let pod = Pod::new("claim-died")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut incumbent = pod.agent(&granted).await?;
    let before = owner(&pod)?;
    announced_and_died(&pod, &before).await?;

    let serving = tokio::spawn(async move {
        let end = incumbent.keep_up().await;
        (incumbent, end)
    });
    while owner(&pod)? != before {
        ensure!(!serving.is_finished(), "it gave way to nobody");
        sleep(Duration::from_millis(20)).await;
    }
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    ensure!(!serving.is_finished(), "it gave way to nobody");
    // It has the lock again, and gives way to one that lives.
    let error = pod.node(Succession::Refuse).await.err();
    let error = error.context("it started")?.to_string();
    ensure!(error.contains("another agent holds"), "{error}");
    let mut newcomer = pod.take_over().await?;
    let (_, end) = serving.await?;
    ensure!(matches!(end, NodeError::Replaced), "{end}");
    pod.serve(&mut newcomer, &granted)?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    Ok(())
}

/// A newcomer tells the agent that runs to give way, and is gone before that does.
async fn announced_and_died(pod: &Pod, before: &str) -> Result<()> {
    let mut newcomer = Box::pin(pod.take_over());
    while owner(pod)? == before {
        let pause = sleep(Duration::from_millis(20));
        tokio::select! {
            taken = &mut newcomer => bail!("it took over: {:?}", taken.err()),
            () = pause => {}
        }
    }
    // As by a crash: it does not take back what it said.
    std::mem::forget(newcomer);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_dies_while_it_is_asked_to_give_way_leaves_nobody_served() -> Result<()> {
    let pod = Pod::new("asked-died")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut incumbent = pod.agent(&granted).await?;
    incumbent.set_grace(limits::GRACE)?;
    let before = owner(&pod)?;
    let mut newcomer = Box::pin(pod.take_over());
    while owner(&pod)? == before {
        tokio::select! {
            taken = &mut newcomer => bail!("it took over: {:?}", taken.err()),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    drop(incumbent);
    let mut newcomer = newcomer.await?;
    // Without a sign of life until somebody serves the pod.
    let keeping_up = tokio::spawn(async move { newcomer.keep_up().await });
    while !refused_as_stale(&pod)? {
        ensure!(!keeping_up.is_finished());
        let refused = pod.curl(&[&pod.url(port)])?;
        ensure!(refused.status.code() == Some(CURL_REFUSED), "{refused:?}");
        sleep(Duration::from_millis(100)).await;
    }
    keeping_up.abort();
    let _ = keeping_up.await;
    Ok(())
}

/// Who writes the maps, or wants to.
fn owner(pod: &Pod) -> Result<String> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned("CONFIG"));
    let config: serde_json::Value = serde_json::from_str(&stdout_of(dump)?)?;
    let owner = &config[0]["formatted"]["value"]["owner"];
    ensure!(!owner.is_null(), "{config}");
    Ok(owner.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_cgroups_that_are_gone_are_forgotten() -> Result<()> {
    let (pod, other) = (Pod::new("stranger")?, Pod::new("stranger-too")?);
    let mut first = pod.agent(&[]).await?;
    other.enrol(&mut first)?;
    first.attach(other.cgroup.directory())?;
    other.attaches(&HOOKS).await?;
    drop(first);
    let next = pod.agent(&[]).await?;
    other.attaches(&[]).await?;
    pod.attaches(&HOOKS).await?;
    ensure!(next.enrolled().collect::<Vec<_>>() == [pod.cgroup.id()]);
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned("WORKLOADS"));
    let workloads: serde_json::Value = serde_json::from_str(&stdout_of(dump)?)?;
    ensure!(workloads.as_array().map(Vec::len) == Some(1), "{workloads}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unload_removes_everything_unless_an_agent_runs() -> Result<()> {
    let pod = Pod::new("unload")?;
    let agent = pod.agent(&[]).await?;
    let run = || {
        let mut unload = Command::new(env!("CARGO_BIN_EXE_postern"));
        unload.args(["unload", "--pins"]).arg(pod.pins());
        output(unload)
    };
    let refused = run()?;
    ensure!(!refused.status.success() && stderr(&refused).contains("stop it first"));
    pod.attaches(&HOOKS).await?;
    drop(agent);
    // What another version left goes as well.
    fs::create_dir(pod.pins().join("abi0"))?;
    let done = run()?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(
        stdout(&done).contains(&format!("{}: {} links, 12 maps", abi(), HOOKS.len())),
        "{done:?}"
    );
    pod.attaches(&[]).await?;
    ensure!(!pod.pins().exists());
    ensure!(stdout(&run()?).contains("nothing is pinned"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_of_another_layout_are_not_touched() -> Result<()> {
    let pod = Pod::new("layout")?;
    let directory = pod.pins().join(abi());
    fs::create_dir_all(&directory)?;
    let mut create = Command::new("bpftool");
    create.args(["map", "create"]).arg(directory.join("CONFIG"));
    create.args(["type", "array", "key", "4", "value", "8", "entries", "1"]);
    create.args(["name", "CONFIG"]);
    run_ok(create)?;
    let error = pod.agent(&[]).await.err().context("it started")?;
    ensure!(
        error.to_string().contains("CONFIG") && error.to_string().contains("postern unload"),
        "{error}"
    );
    ensure!(unload(pod.pins())?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_are_pinned_on_a_bpf_file_system_or_not_at_all() -> Result<()> {
    let pod = Pod::new("no-bpffs")?;
    let elsewhere = TempDir::new("pins")?.join("postern");
    let (proxy, levels) = (pod.proxy()?, pod.cgroup.levels());
    let taken = Node::take_over(proxy, levels, &elsewhere, Succession::Refuse).await;
    let error = taken.err().context("it started")?.to_string();
    ensure!(error.contains("mount -t bpf"), "{error}");
    ensure!(!elsewhere.exists());
    Ok(())
}
