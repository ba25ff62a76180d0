//! A credential's way: applied, used, rotated, taken away, and never seen.

use anyhow::{Context, Result, ensure};
use minicluster::pods::Trust;
use minicluster::{CgroupLayout, Programs, World, leaks, manifests, wait};
use testkit::maps;

use crate::{PUSH_AND_PULL, TEAM, add_team, refused, succeeded, world, world_with_team};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_pushes_and_pulls_and_no_secret_shows() -> Result<()> {
    let world = world_with_team().await?;
    let pod = world
        .run_pod(TEAM, "client", Trust::Postern, PUSH_AND_PULL)
        .await?;
    succeeded(&pod, "pulled")?;
    wait::until("what was counted", async || {
        let status = world.agent_status()?;
        let count = |side: &str, name: &str| status[side][name].as_u64();
        let is_counted = count("kernel", "redirected") > Some(0)
            && count("proxy", "injected") > Some(0)
            && count("kernel", "dns_unasked") == Some(0);
        Ok(is_counted.then_some(()))
    })
    .await?;

    // Somebody else's pod goes to the registry itself.
    world.apply(&manifests::bare_namespace("team-b"))?;
    let pod = world
        .run_pod("team-b", "client", Trust::Registry, PUSH_AND_PULL)
        .await?;
    refused(&pod, "authentication required")?;

    // A pod stays, so that all maps have something in them.
    world.start_pod(TEAM, "stays", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "stays").await?;
    served(&world, 1).await?;
    leaks::search(&world, &leaks::needles(world.user(), &world.password))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_the_systemd_driver_are_served_as_well() -> Result<()> {
    let programs = Programs::beside_this()?;
    let mut world = World::without_postern_on(programs, CgroupLayout::Systemd).await?;
    world.start_controller().await?;
    world.start_agent().await?;
    add_team(&world, TEAM)?;
    world.condition(TEAM, "Ready", "True").await?;
    let pod = world
        .run_pod(TEAM, "client", Trust::Postern, PUSH_AND_PULL)
        .await?;
    succeeded(&pod, "pulled")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_later_and_changes_is_used_at_once() -> Result<()> {
    let world = world().await?;
    // Everything but the Secret.
    add_team(&world, TEAM)?;
    world.kubectl(&["delete", "secret", "registry-login", "--namespace", TEAM])?;
    let missing = world.condition(TEAM, "SecretReady", "False").await?;
    let message = missing["message"].as_str().unwrap_or_default();
    ensure!(message.contains("registry-login"), "{missing}");

    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    served(&world, 1).await?;
    let pod = world.exec(TEAM, "client", crate::PING).await?;
    ensure!(!pod.log.contains("200"), "{pod:?}");

    let login = |password: &str| manifests::login(TEAM, world.user(), password).to_string();
    world.apply(&login(&world.password))?;
    world.condition(TEAM, "Ready", "True").await?;
    pings(&world, "200").await?;

    // The registry gets another password, and so does the Secret.
    let second = "another-password-of-the-registry";
    world.registry.set_users(&[(world.user(), second)])?;
    // Postern keeps the registry's refusal from the client, which could do nothing about it.
    wait::until("a refusal by the registry", async || {
        let pod = world.exec(TEAM, "client", crate::PING).await?;
        Ok((pod.log != "200").then_some(()))
    })
    .await?;
    world.apply(&login(second))?;
    pings(&world, "200").await?;
    leaks::search(&world, &leaks::needles(world.user(), second))?;

    // Away with it: what is left is refused, not sent out without a credential.
    world.kubectl(&["delete", "secret", "registry-login", "--namespace", TEAM])?;
    world.condition(TEAM, "Ready", "False").await?;
    wait::until("a refusal", async || {
        let pod = world.exec(TEAM, "client", crate::PING).await?;
        Ok((!pod.succeeded).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_that_is_deleted_is_gone_from_the_node() -> Result<()> {
    let world = world_with_team().await?;
    world.start_pod(TEAM, "client", Trust::Registry, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    served(&world, 1).await?;
    let agent = world.agent.as_ref().context("no agent")?.pid();
    let credentials = || -> Result<usize> {
        let maps = maps::of_process(agent)?;
        let found = maps.iter().find(|map| map.name == "CREDENTIALS");
        Ok(found.context("no such map")?.contents.len())
    };
    ensure!(credentials()? > 0, "no credential is bound");

    world.kubectl(&["delete", "connector", "registry", "--namespace", TEAM])?;
    wait::until("an empty node", async || {
        let status = world.agent_status()?;
        Ok((status["connectors"] == 0).then_some(()))
    })
    .await?;
    wait::until_true("no credential in the kernel", || {
        maps::of_process_even_if_empty(agent).map(|maps| {
            maps.iter()
                .filter(|map| map.name == "CREDENTIALS" || map.name == "DESTINATIONS")
                .all(|map| map.contents.is_empty())
        })
    })
    .await?;
    // It goes to the registry itself now, which asks who is there.
    pings(&world, "401").await
}

/// Waits until the answer to a ping of pod `client` is this.
async fn pings(world: &World, expected: &str) -> Result<()> {
    wait::until(&format!("a ping answered {expected}"), async || {
        let pod = world.exec(TEAM, "client", crate::PING).await?;
        Ok((pod.log == expected).then_some(()))
    })
    .await
}

async fn served(world: &World, pods: u64) -> Result<()> {
    wait::until(&format!("{pods} served pods"), async || {
        let status = world.agent_status()?;
        Ok((status["pods"] == pods).then_some(()))
    })
    .await
}
