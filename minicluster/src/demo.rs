//! The chain, shown: what a user applies, what a pod can do then, and what shows of it.

use anyhow::{Context, Result, ensure};
use minicluster::pods::{Outcome, Trust};
use minicluster::{Programs, REGISTRY, World, leaks, manifests, wait};
use testkit::maps::{self, Map};
use testkit::report::Report;

const TEAM: &str = "team-a";
const STRANGERS: &str = "team-b";

const PUSH: &str = "skopeo copy oci:/images/small:latest docker://registry.example.com/team/app:1";
const PULL: &str = "skopeo copy docker://registry.example.com/team/app:1 oci:/tmp/app:1";
const INSPECT: &str = "skopeo inspect --config";
/// Pulls until it is told to stop, and notes how each pull ended.
const PULL_ON: &str = "while ! test -f /tmp/stop; do \
     rm -rf /tmp/app; \
     if skopeo copy --quiet docker://registry.example.com/team/app:1 oci:/tmp/app:1; \
     then echo pulled; else echo failed; fi >> /tmp/pulls 2>&1; done";

pub(crate) async fn perform(programs: Programs) -> Result<()> {
    println!(
        "demo: a cluster of one node: API server (a stand-in), containerd, docker-registry with \
         TLS and a password"
    );
    let mut world = World::without_postern(programs).await?;
    println!("demo: kubectl apply -k manifests; starting postern-controller and postern agent");
    world.start_controller().await?;
    world.start_agent().await?;
    let mut report = Report::default();
    let outcome = tell(&mut world, &mut report).await;
    println!("\n{report}");
    outcome.context("demo")?;
    println!("demo: ok");
    Ok(())
}

async fn tell(world: &mut World, report: &mut Report) -> Result<()> {
    apply(world, report).await?;
    use_it(world, report).await?;
    rotate(world, report).await?;
    look_for_secrets(world, report)?;
    take_away(world, report).await?;
    unload(world, report).await
}

async fn apply(world: &World, report: &mut Report) -> Result<()> {
    let address = format!("https://{REGISTRY}");
    world.apply(&manifests::tenant(
        TEAM,
        world.user(),
        &world.password,
        &address,
        &world.pki.ca_pem()?,
    ))?;
    world.apply(&manifests::bare_namespace(STRANGERS))?;
    world.condition(TEAM, "Ready", "True").await?;
    println!("\nkubectl get connectors --all-namespaces");
    println!(
        "{}\n",
        world.kubectl(&["get", "connectors", "--all-namespaces"])?
    );
    report.add(
        "a Connector and its Secret",
        "kubectl apply -f connector.yaml",
        "Ready=True",
        "Ready=True",
    );
    Ok(())
}

async fn use_it(world: &World, report: &mut Report) -> Result<()> {
    world.start_pod(TEAM, "builder", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "builder").await?;
    // Its first connection may come sooner than the network namespace is known.
    wait::until("a served pod", async || {
        let status = world.agent_status()?;
        Ok((status["pods"] == 1).then_some(()))
    })
    .await?;
    for (step, script) in [("push from a pod", PUSH), ("pull by a pod", PULL)] {
        let outcome = world.exec(TEAM, "builder", script).await?;
        expect(&outcome)?;
        report.add(step, script, "done", "done");
    }
    let script = format!(
        "{INSPECT} oci:/images/small:latest > /tmp/a && {INSPECT} oci:/tmp/app:1 > /tmp/b && \
         grep -o 'sha256:[0-9a-f]*' /tmp/a > /tmp/c && grep -o 'sha256:[0-9a-f]*' /tmp/b | \
         cmp - /tmp/c && echo same"
    );
    expect(&world.exec(TEAM, "builder", &script).await?)?;
    report.add(
        "its contents",
        "skopeo inspect --config",
        "the same",
        "the same",
    );

    let why = "authentication required";
    let stranger = world
        .run_pod(STRANGERS, "stranger", Trust::Registry, PULL)
        .await?;
    ensure!(
        !stranger.succeeded && stranger.log.contains(why),
        "a stranger's pull: {stranger:?}"
    );
    let got = format!("refused by the registry: {why}");
    report.add(
        "pull by a pod of another namespace",
        PULL,
        "untouched",
        &got,
    );
    Ok(())
}

/// The registry gets a new user, the Secret names it, and the old one goes, while a pod pulls.
async fn rotate(world: &World, report: &mut Report) -> Result<()> {
    let before = maps_of_agent(world)?;
    maps::show(&before, &["CREDENTIALS"])?;
    world.start_pod(TEAM, "puller", Trust::Postern, PULL_ON)?;
    world.running(TEAM, "puller").await?;
    pulls(world, 3).await?;

    let (old, new) = (
        (world.user(), world.password.as_str()),
        ("robot-2", "rotated-password"),
    );
    world.registry.set_users(&[old, new])?;
    world.apply(&manifests::login(TEAM, new.0, new.1).to_string())?;
    wait::until_true("the new credential in the kernel", || {
        Ok(generation(&maps_of_agent(world)?)? > generation(&before)?)
    })
    .await?;
    world.registry.set_users(&[new])?;
    let so_far = pulls(world, 0).await?;
    let total = pulls(world, so_far + 3).await?;
    expect(&world.exec(TEAM, "puller", "touch /tmp/stop").await?)?;

    let after = maps_of_agent(world)?;
    maps::show(&after, &["CREDENTIALS"])?;
    let got = format!("{total} pulls, none failed");
    report.add(
        "a new login, while a pod pulls",
        "kubectl apply -f secret.yaml",
        "no pull fails",
        &got,
    );
    let (old, new) = (generation(&before)?, generation(&after)?);
    report.add(
        "its binding in the kernel",
        "bpftool map dump name CREDENTIALS",
        "another generation",
        &format!("generation {old}, then {new}"),
    );
    Ok(())
}

fn look_for_secrets(world: &World, report: &mut Report) -> Result<()> {
    let mut needles = leaks::needles("robot-2", "rotated-password");
    let looked = leaks::search(world, &needles)?;
    // The first login is not in its Secret any more, so a search for it would say that it is
    // broken; what must not show is the same.
    needles.extend(leaks::needles(world.user(), &world.password));
    leaks::search(world, &needles)?;
    report.add("secrets in maps", "bpftool map dump", "none", &looked.maps);
    for (place, got) in [
        (
            "objects but its Secret",
            format!("none in {} objects", looked.objects),
        ),
        ("logs and files", format!("none in {} files", looked.files)),
        (
            "environment and arguments",
            format!("none in {} words", looked.words),
        ),
    ] {
        report.add(&format!("secrets in {place}"), "a search", "none", &got);
    }
    Ok(())
}

async fn take_away(world: &World, report: &mut Report) -> Result<()> {
    world.kubectl(&["delete", "connector", "registry", "--namespace", TEAM])?;
    wait::until("a node without Connectors", async || {
        let status = world.agent_status()?;
        Ok((status["connectors"] == 0).then_some(()))
    })
    .await?;
    let why = "authentication required";
    let outcome = world.run_pod(TEAM, "late", Trust::Registry, PULL).await?;
    ensure!(
        !outcome.succeeded && outcome.log.contains(why),
        "a pull without a Connector: {outcome:?}"
    );
    let got = format!("refused by the registry: {why}");
    report.add("the Connector is deleted", PULL, "untouched", &got);
    Ok(())
}

async fn unload(world: &mut World, report: &mut Report) -> Result<()> {
    let agent = world.agent.take().context("no agent runs")?;
    agent.terminate().await?;
    let said = world.unload()?;
    ensure!(!world.pins().exists(), "pins are left");
    let said = said.rsplit_once(": ").map_or(&*said, |(_, what)| what);
    report.add(
        "the agent ends",
        "postern unload",
        "nothing is left",
        &format!("removed {said}"),
    );
    Ok(())
}

/// Waits for so many pulls of pod `puller`, and returns how many there are.
async fn pulls(world: &World, wanted: usize) -> Result<usize> {
    wait::until(&format!("{wanted} pulls"), async || {
        let pod = world.exec(TEAM, "puller", "cat /tmp/pulls || true").await?;
        let failed = pod.log.lines().any(|line| line == "failed");
        ensure!(!failed, "a pull failed: {}", pod.log);
        let count = pod.log.lines().filter(|line| *line == "pulled").count();
        Ok((count >= wanted).then_some(count))
    })
    .await
}

fn expect(outcome: &Outcome) -> Result<()> {
    ensure!(
        outcome.succeeded,
        "a command in a pod failed: {}",
        outcome.log
    );
    Ok(())
}

fn maps_of_agent(world: &World) -> Result<Vec<Map>> {
    maps::of_process(world.agent.as_ref().context("no agent runs")?.pid())
}

/// The first field of the only credential, see `proxy-common/src/maps.rs`.
fn generation(maps: &[Map]) -> Result<u64> {
    let map = maps.iter().find(|map| map.name == "CREDENTIALS");
    let mut values = map.context("no such map")?.contents.iter();
    let value = values.rfind(|entry| entry.len() > 8);
    let bytes = value.and_then(|value| value.first_chunk());
    Ok(u64::from_ne_bytes(*bytes.context("no credential")?))
}
