//! Agents that end, are killed, and are replaced.

use anyhow::{Context, Result, ensure};
use minicluster::pods::Trust;
use minicluster::{World, wait};

use crate::{PING, TEAM, succeeded, world_with_team};

/// A pod that pings the registry until it is stopped, and counts what was not 200.
const PING_ON: &str = "while true; do \
     code=$(curl --silent --max-time 20 --output /dev/null --write-out '%{http_code}' \
     https://registry.example.com/v2/_catalog); \
     echo $code >> /tmp/codes; done";

async fn pinging_world() -> Result<World> {
    let world = world_with_team().await?;
    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    pings(&world).await?;
    Ok(world)
}

async fn pings(world: &World) -> Result<()> {
    wait::until("a ping with a credential", async || {
        let pod = world.exec(TEAM, "client", PING).await?;
        Ok((pod.log == "200").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_takes_over_and_no_request_fails() -> Result<()> {
    let mut world = pinging_world().await?;
    world.start_pod(TEAM, "load", Trust::Postern, PING_ON)?;
    world.running(TEAM, "load").await?;
    let codes = "test -f /tmp/codes && cat /tmp/codes";
    wait::until("the first pings of the load", async || {
        let pod = world.exec(TEAM, "load", codes).await?;
        Ok(pod.log.contains("200").then_some(()))
    })
    .await?;
    world.exec(TEAM, "load", "rm /tmp/codes").await?;

    for _ in 0..2 {
        world.start_agent().await?;
        let pod = world.exec(TEAM, "client", PING).await?;
        succeeded(&pod, "200")?;
    }
    let pod = world.exec(TEAM, "load", codes).await?;
    let (good, bad): (Vec<_>, Vec<_>) = pod.log.lines().partition(|code| *code == "200");
    ensure!(bad.is_empty(), "{bad:?} among {} answers", good.len());
    ensure!(!good.is_empty(), "nothing was asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_is_succeeded() -> Result<()> {
    let mut world = pinging_world().await?;
    world.agent.take().context("no agent")?.kill()?;
    // Nobody answers: refused, not sent out without a credential.
    wait::until("a refusal", async || {
        let pod = world.exec(TEAM, "client", PING).await?;
        Ok((!pod.succeeded).then_some(()))
    })
    .await?;
    world.start_agent().await?;
    // Ready means that the pods that were there are served.
    let pod = world.exec(TEAM, "client", PING).await?;
    succeeded(&pod, "200")?;

    world.agent.take().context("no agent")?.terminate().await?;
    world.start_agent().await?;
    let pod = world.exec(TEAM, "client", PING).await?;
    succeeded(&pod, "200")
}

#[tokio::test(flavor = "multi_thread")]
async fn unload_leaves_nothing_behind() -> Result<()> {
    let mut world = pinging_world().await?;
    let refused = world.unload();
    ensure!(refused.is_err(), "it unloaded under a running agent");
    world.agent.take().context("no agent")?.terminate().await?;
    ensure!(world.pins().exists(), "nothing was pinned");
    world.unload()?;
    ensure!(!world.pins().exists(), "something is left");
    // Now the pod is on its own, and does not trust the registry.
    let pod = world.exec(TEAM, "client", PING).await?;
    ensure!(!pod.succeeded, "{pod:?}");
    world.unload().map(drop)
}
