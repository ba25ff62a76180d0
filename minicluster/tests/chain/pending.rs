//! Pods that connect before it is known what they are granted.

use std::fs;

use anyhow::{Context, Result, ensure};
use fake_apiserver::{Fault, Matching};
use minicluster::pods::Trust;
use minicluster::{World, wait};

use crate::{PING, TEAM, add_team, world_with_team};

/// Another namespace with a Connector to the registry.
const OTHERS: &str = "team-b";

/// Goes to the registry as its first act, whoever answers, and again until it was let in.
const INSIST: &str = "for n in $(seq 2000); do \
     code=$(curl --insecure --silent --max-time 20 --output /dev/null \
     --write-out '%{http_code}' https://registry.example.com/v2/_catalog); \
     echo \"answer $code\"; test \"$code\" = 200 && exit; sleep 0.05; done; exit 1";

/// The node serves a pod, so that it redirects what a Connector wants.
async fn served(world: &World) -> Result<()> {
    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    wait::until("a ping with a credential", async || {
        let pod = world.exec(TEAM, "client", PING).await?;
        Ok((pod.log == "200").then_some(()))
    })
    .await
}

/// Waits until a pod has tried that often.
async fn insists(world: &World, namespace: &str, pod: &str, times: usize) -> Result<()> {
    wait::until(
        &format!("{times} attempts of {namespace}/{pod}"),
        async || {
            let log = world.node.logs(namespace, pod, "main").await;
            let attempts = log.map_or(0, |log| log.matches("answer ").count());
            Ok((attempts >= times).then_some(()))
        },
    )
    .await
}

/// The pod was refused until it was served: nobody asked the registry without a credential.
async fn was_never_let_out(world: &World, namespace: &str, pod: &str) -> Result<()> {
    let outcome = world.outcome(namespace, pod).await?;
    ensure!(outcome.succeeded, "{outcome:?}");
    let mut answers: Vec<_> = outcome.log.lines().collect();
    ensure!(answers.pop() == Some("answer 200"), "{outcome:?}");
    // No connection at all; what went to the registry itself would say 401.
    ensure!(!answers.is_empty(), "{outcome:?}");
    ensure!(answers.iter().all(|it| *it == "answer 000"), "{outcome:?}");
    let log = world.registry.server().log();
    let asked = fs::read_to_string(log).context("the registry has no log")?;
    let catalog: Vec<_> = asked
        .lines()
        .filter(|line| line.contains("GET /v2/_catalog"))
        .collect();
    ensure!(!catalog.is_empty(), "{asked}");
    ensure!(
        catalog.iter().all(|line| line.contains("\" 200 ")),
        "{catalog:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_refused_until_its_reviews_are_answered() -> Result<()> {
    let world = world_with_team().await?;
    add_team(&world, OTHERS)?;
    world.condition(OTHERS, "Ready", "True").await?;
    served(&world).await?;
    let reviews = Matching::new("create", "subjectaccessreviews");
    world
        .handle()
        .fail_matching(reviews, usize::MAX, Fault::Unavailable);
    world.start_pod(OTHERS, "newcomer", Trust::Postern, INSIST)?;
    insists(&world, OTHERS, "newcomer", 5).await?;
    let status = world.agent_status()?;
    ensure!(
        status["waitingPods"] == 1 && status["pods"] == 1,
        "{status}"
    );

    world.handle().clear_faults();
    was_never_let_out(&world, OTHERS, "newcomer").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_refused_while_the_controller_is_away() -> Result<()> {
    let mut world = world_with_team().await?;
    served(&world).await?;
    world.controller.take().context("no controller")?.kill()?;
    wait::until("an agent that notices", async || {
        let status = world.agent_status()?;
        Ok((status["connected"] == false).then_some(()))
    })
    .await?;
    world.start_pod(TEAM, "newcomer", Trust::Postern, INSIST)?;
    insists(&world, TEAM, "newcomer", 5).await?;

    world.start_controller().await?;
    was_never_let_out(&world, TEAM, "newcomer").await
}
