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
use crate::rig::{HOOKS, Pod};

const UPGRADES: usize = 50;
/// Agents that may still serve what they have open.
const DRAINING: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_upgrades_lose_no_connection() -> Result<()> {
    let pod = Pod::new("fifty")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let mut incumbent = pod.agent(&granted).await?;
    pod.attaches(&HOOKS).await?;
    let mut before = pod.links()?;
    ensure!(before.len() == HOOKS.len(), "{before:?}");
    let links: BTreeSet<_> = before.keys().copied().collect();
    let sampler = Sampler::start(pod.cgroup.id(), links.clone());
    let goal = Goal {
        ip: pod.host,
        port,
        body: format!("{} Bearer token", pod.host),
    };
    let mut clients = [Habit::Dial, Habit::Dial, Habit::Keep, Habit::Keep]
        .map(|habit| Client::start(&pod, habit, &goal));

    let mut draining = JoinSet::new();
    for round in 1..=UPGRADES {
        let (old, new) = replace(incumbent, &pod).await?;
        draining.spawn(old.drain(limits::HAND_OVER));
        incumbent = new;
        pod.serve(&mut incumbent, &granted)?;
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
    let last = tokio::spawn(async move { incumbent.keep_up().await });
    let samples = sampler.end()?;
    ensure!(samples > 0, "nobody looked");
    for client in clients {
        let answers = tokio::task::spawn_blocking(move || client?.end()).await??;
        ensure!(answers > 0, "a client had no answer");
    }
    draining.join_all().await;
    pod.attaches(&HOOKS).await?;
    last.abort();
    let _ = last.await;
    Ok(())
}

/// A newcomer, and the agent that gave way to it.
async fn replace(mut incumbent: Node, pod: &Pod) -> Result<(Node, Node)> {
    let serving = tokio::spawn(async move {
        let end = incumbent.keep_up().await;
        (incumbent, end)
    });
    let newcomer = pod.take_over().await?;
    let (incumbent, end) = serving.await?;
    ensure!(matches!(end, NodeError::Replaced), "{end}");
    Ok((incumbent, newcomer))
}

/// Looks all the time whether a cgroup has exactly the links that it should have.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Sampler {
    fn start(cgroup_id: u64, links: BTreeSet<u64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut samples = 0;
            while !stopped.load(Ordering::Relaxed) {
                let found: BTreeSet<_> = links_of(cgroup_id)?.into_keys().collect();
                ensure!(found == links, "{found:?} instead of {links:?}");
                samples += 1;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(samples)
        });
        Self { stop, thread }
    }

    /// How often it has looked.
    fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}
