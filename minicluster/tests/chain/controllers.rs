//! The controller goes and comes back.

use anyhow::{Context, Result};
use minicluster::pods::Trust;
use minicluster::{World, wait};

use crate::{PING, PUSH_AND_PULL, TEAM, add_team, succeeded, world_with_team};

#[tokio::test(flavor = "multi_thread")]
async fn agents_serve_while_the_controller_is_away() -> Result<()> {
    let mut world = world_with_team().await?;
    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    wait::until("a ping with a credential", async || {
        let pod = world.exec(TEAM, "client", PING).await?;
        Ok((pod.log == "200").then_some(()))
    })
    .await?;

    world.controller.take().context("no controller")?.kill()?;
    connected(&world, false).await?;
    let pod = world.exec(TEAM, "client", PUSH_AND_PULL).await?;
    succeeded(&pod, "pulled")?;

    // What the new one says includes what happened meanwhile, and takes nothing away.
    add_team(&world, "team-c")?;
    world.start_controller().await?;
    world.condition("team-c", "Ready", "True").await?;
    connected(&world, true).await?;
    let pod = world
        .run_pod("team-c", "client", Trust::Postern, PUSH_AND_PULL)
        .await?;
    succeeded(&pod, "pulled")?;
    let pod = world.exec(TEAM, "client", PUSH_AND_PULL).await?;
    succeeded(&pod, "pulled")
}

async fn connected(world: &World, expected: bool) -> Result<()> {
    wait::until("an agent that notices", async || {
        let status = world.agent_status()?;
        Ok((status["connected"] == expected).then_some(()))
    })
    .await
}
