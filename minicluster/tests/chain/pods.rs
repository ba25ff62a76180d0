//! Pods that go in the middle, and processes that are not the pod's.

use std::fs;

use anyhow::{Context, Result, ensure};
use minicluster::pods::Trust;
use minicluster::{REGISTRY, World, wait};
use testkit::command::run_within;
use testkit::report::COMMAND_LIMIT;
use testkit::{maps, oci};

use crate::{PING, PUSH_AND_PULL, TEAM, succeeded, world_with_team};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_while_it_pushes_leaves_nothing() -> Result<()> {
    let world = world_with_team().await?;
    oci::layout(&world.images().join("large"), &[64 << 20; 4])?;
    let push = "skopeo copy --quiet oci:/images/large:latest \
                docker://registry.example.com/team/large:1";
    world.start_pod(TEAM, "pusher", Trust::Postern, push)?;
    wait::until("an upload", async || {
        let status = world.agent_status()?;
        Ok((status["injected"].as_u64() > Some(2)).then_some(()))
    })
    .await?;
    world.delete_pod(TEAM, "pusher").await?;

    wait::until("an agent without connections", async || {
        let status = world.agent_status()?;
        let idle = status["connections"] == 0 && status["pods"] == 0;
        Ok(idle.then_some(()))
    })
    .await?;
    let agent = world.agent.as_ref().context("no agent")?.pid();
    let workloads = maps::of_process_even_if_empty(agent)?;
    let workloads = workloads.iter().find(|map| map.name == "WORKLOADS");
    ensure!(workloads.is_some_and(|map| map.contents.is_empty()));

    // Others are served as before.
    let pod = world
        .run_pod(TEAM, "client", Trust::Postern, PUSH_AND_PULL)
        .await?;
    succeeded(&pod, "pulled")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_host_in_a_pods_namespace_is_not_the_pod() -> Result<()> {
    let world = world_with_team().await?;
    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    wait::until("a ping with a credential", async || {
        let pod = world.exec(TEAM, "client", PING).await?;
        Ok((pod.log == "200").then_some(()))
    })
    .await?;

    let pid = process_of_pod(&world)?;
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = world.node.command("nsenter");
        command
            .args(["--target", &pid.to_string(), "--net", "--", program])
            .args(arguments);
        run_within(command, COMMAND_LIMIT)
    };
    // It goes to the registry itself, which asks who is there.
    let ca = world.pki.ca().display().to_string();
    let url = format!("https://{REGISTRY}/v2/_catalog");
    let code = [
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
    ];
    let output = inside("curl", &[&code[..], &["--cacert", &ca, &url]].concat())?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(answer == "401", "{output:?}");

    // The listener is no way in either.
    for port in listeners(pid)? {
        let output = inside(
            "curl",
            &["--silent", &format!("http://127.0.0.1:{port}/v2/")],
        )?;
        ensure!(!output.status.success(), "{output:?}");
    }
    let agent = world.agent.as_ref().context("no agent")?;
    ensure!(agent.log().contains("reset connections"), "{}", agent.log());
    Ok(())
}

/// A process of the only pod, as the node sees it.
fn process_of_pod(world: &World) -> Result<u32> {
    let mut open = vec![world.node.kubepods()];
    while let Some(folder) = open.pop() {
        let processes = fs::read_to_string(folder.join("cgroup.procs"))?;
        if let Some(pid) = processes.lines().next() {
            return pid.parse().context("not a process id");
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    anyhow::bail!("no pod has a process")
}

/// Ports on which something listens in the namespace of a process.
fn listeners(pid: u32) -> Result<Vec<u16>> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let ports: Vec<u16> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (local, state) = (fields.get(1)?, fields.get(3)?);
            let port = local.rsplit_once(':')?.1;
            (*state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
        })
        .collect();
    ensure!(!ports.is_empty(), "nothing listens in the pod");
    Ok(ports)
}
