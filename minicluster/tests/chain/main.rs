//! The whole chain: what a user applies reaches a pod's next connection.

mod agents;
mod certificates;
mod controllers;
mod credentials;
mod grants;
mod pending;
mod pods;
mod refusals;

use anyhow::{Result, ensure};
use minicluster::pods::Outcome;
use minicluster::{Programs, REGISTRY, World, manifests};

/// A namespace with a Connector to the registry.
const TEAM: &str = "team-a";

/// Pushes an image and pulls it back.
const PUSH_AND_PULL: &str = "skopeo copy --quiet oci:/images/small:latest \
     docker://registry.example.com/team/image:1 && \
     skopeo copy --quiet docker://registry.example.com/team/image:1 oci:/tmp/pulled:latest && \
     echo pulled";

/// Asks the registry who it thinks is there.
const PING: &str = "curl --silent --show-error --max-time 20 --output /dev/null \
     --write-out '%{http_code}' https://registry.example.com/v2/_catalog";

async fn world() -> Result<World> {
    World::start(Programs::beside_this()?).await
}

/// A cluster in which [`TEAM`] has its Connector.
async fn world_with_team() -> Result<World> {
    let world = world().await?;
    add_team(&world, TEAM)?;
    world.condition(TEAM, "Ready", "True").await?;
    Ok(world)
}

fn add_team(world: &World, namespace: &str) -> Result<()> {
    world.apply(&manifests::tenant(
        namespace,
        world.user(),
        &world.password,
        &format!("https://{REGISTRY}"),
        &world.pki.ca_pem()?,
    ))
}

fn succeeded(outcome: &Outcome, expected: &str) -> Result<()> {
    ensure!(
        outcome.succeeded && outcome.log.contains(expected),
        "expected {expected:?}: {outcome:?}"
    );
    Ok(())
}

fn refused(outcome: &Outcome, why: &str) -> Result<()> {
    ensure!(
        !outcome.succeeded && outcome.log.contains(why),
        "expected a refusal, {why:?}: {outcome:?}"
    );
    Ok(())
}
