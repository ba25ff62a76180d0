//! Many upgrades, one after the other, while clients go on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use postern::{
    limits,
    node::{Node, NodeError},
    state::Scheme,
};
use tokio::task::JoinSet;

use super::{
    clients::{Client, Goal, Habit},
    links::links_of,
};
use crate::rig::{HOOKS, Pod, abi, attached, rounds};

const UPGRADES: usize = 50;
/// Agents that may still serve what they have open.
const DRAINING: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_upgrades_lose_no_connection() -> Result<()> {
    let pod = Pod::new("fifty")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut serving = serve(pod.agent(&granted).await?);
    pod.attaches(&HOOKS).await?;
    let mut before = pod.links()?;
    ensure!(before.len() == HOOKS.len(), "{before:?}");
    let links: BTreeSet<_> = before.keys().copied().collect();
    let sampler = Sampler::start(&pod, links.clone());
    let goal = Goal {
        ip: pod.host,
        port,
        body: format!("{} Bearer token", pod.host),
    };
    let mut clients = [Habit::Dial, Habit::Dial, Habit::Keep, Habit::Keep]
        .map(|habit| Client::start(&pod, habit, &goal));

    let mut draining = JoinSet::new();
    for round in 1..=rounds(UPGRADES) {
        let mut newcomer = pod.take_over().await?;
        let (incumbent, end) = serving.await?;
        ensure!(matches!(end, NodeError::Replaced), "{end}");
        draining.spawn(incumbent.drain(limits::HAND_OVER));
        pod.serve(&mut newcomer, &granted)?;
        serving = serve(newcomer);
        let after = pod.links()?;
        let kept: BTreeSet<_> = after.keys().copied().collect();
        ensure!(kept == links, "round {round}: {before:?}, then {after:?}");
        ensure!(
            after.iter().all(|(link, program)| before[link] != *program),
            "round {round}: a program was not replaced: {before:?}, then {after:?}"
        );
        before = after;
        for client in &mut clients {
            let client = client
                .as_mut()
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            client
                .check()
                .with_context(|| format!("in round {round}"))?;
        }
        while draining.len() > DRAINING {
            draining.join_next().await;
        }
    }
    let samples = sampler.end()?;
    // A slow machine does not come to look in each round.
    ensure!(samples >= UPGRADES / 5, "{samples} looks");
    for client in clients {
        let answers = tokio::task::spawn_blocking(move || client?.end()).await??;
        ensure!(answers > 0, "a client had no answer");
    }
    draining.join_all().await;
    pod.attaches(&HOOKS).await?;
    serving.abort();
    let _ = serving.await;
    Ok(())
}

/// Has an agent serve until another one has taken over.
fn serve(mut node: Node) -> tokio::task::JoinHandle<(Node, NodeError)> {
    tokio::spawn(async move {
        let end = node.keep_up().await;
        (node, end)
    })
}

/// Looks all the time whether the pod's cgroup has exactly the links that it should have, and
/// no two programs on one hook.
struct Sampler {
    stop: Arc<AtomicBool>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<Result<usize>>>,
}

impl Sampler {
    fn start(pod: &Pod, links: BTreeSet<u64>) -> Self {
        let (pins, cgroup_id) = (pod.pins().join(abi()), pod.cgroup.id());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut samples = 0;
            while !stopped.load(Ordering::Relaxed) {
                let found: BTreeSet<_> = links_of(&pins, cgroup_id)?.into_keys().collect();
                ensure!(found == links, "{found:?} instead of {links:?}");
                // bpftool fails when something that it lists goes, as that of other tests may.
                let Ok(hooks) = attached(cgroup_id) else {
                    continue;
                };
                let one_each = hooks.iter().collect::<BTreeSet<_>>().len() == hooks.len();
                ensure!(one_each, "two programs on one hook: {hooks:?}");
                samples += 1;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(samples)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How often it has looked.
    fn end(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().expect("it does not panic")
    }
}

/// A test that fails leaves nobody behind who looks at the next one's programs.
impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
