//! Objects that are missing, and agents that are not who they say.

use anyhow::{Context, Result, ensure};
use fake_apiserver::{Identity, Token};
use minicluster::pods::Trust;
use minicluster::{Programs, World, wait};

use crate::{PUSH_AND_PULL, TEAM, add_team, succeeded, world_with_team};

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_is_missing_is_named_and_waited_for() -> Result<()> {
    let mut world = World::without_postern(Programs::beside_this()?).await?;
    let class = world.kubectl(&["get", "connectorclass", "oci", "--output=json"])?;
    world.kubectl(&["delete", "connectorclass", "oci"])?;
    world.start_controller().await?;
    world.start_agent().await?;
    add_team(&world, TEAM)?;
    let missing = world
        .condition(TEAM, "ConnectorClassReady", "False")
        .await?;
    let message = missing["message"].as_str().unwrap_or_default();
    ensure!(message.contains("oci"), "{missing}");
    world.condition(TEAM, "Ready", "False").await?;

    let mut class: serde_json::Value = serde_json::from_str(&class)?;
    let metadata = class["metadata"].as_object_mut().context("no metadata")?;
    metadata.retain(|field, _| field == "name");
    world.apply(&class.to_string())?;
    world.condition(TEAM, "Ready", "True").await?;
    let pod = world
        .run_pod(TEAM, "client", Trust::Postern, PUSH_AND_PULL)
        .await?;
    succeeded(&pod, "pulled")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_who_it_says_gets_nothing() -> Result<()> {
    let world = world_with_team().await?;
    let other = Token::with_audiences(
        Identity::service_account("postern-system", "postern-agent").bound_to(
            "postern-agent-y",
            "00000000-0000-4000-8000-000000000002",
            "node-2",
        ),
        &["postern-controller"],
    );
    world.handle().add_token("token-of-another-node", other);
    let cases = [
        (
            "a-token-that-somebody-made-up",
            world.node.name(),
            "Unauthenticated",
        ),
        (
            "token-of-another-node",
            world.node.name(),
            "PermissionDenied",
        ),
    ];
    for (token, node, code) in cases {
        let mut agent = world.spawn_agent(token, node)?;
        let log = agent.log_file().to_owned();
        wait::until_true(code, || Ok(std::fs::read_to_string(&log)?.contains(code))).await?;
        let status = world.agent_status()?;
        ensure!(status["ready"] == false, "{status}");
        ensure!(status["stateVersion"].is_null(), "{status}");
        ensure!(agent.ended()?.is_none(), "the agent gave up");
        agent.kill()?;
    }
    Ok(())
}
