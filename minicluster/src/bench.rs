//! How long the links of the chain take.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use minicluster::pods::Trust;
use minicluster::{Programs, World, manifests, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

const TEAM: &str = "team-a";
/// The API that is asked again and again, on an address of the registry.
const UPSTREAM: &str = "192.0.2.10:8080";

pub(crate) async fn perform(programs: Programs, rounds: usize) -> Result<()> {
    let world = World::start(programs).await?;
    let rotations = rotations(&world, rounds).await?;
    let before = Footprint::of_agent(&world)?;
    let pods = pods(&world, rounds).await?;
    let after = Footprint::of_agent(&world)?;
    println!("\n{rounds} rounds each, milliseconds\n");
    println!(
        "{:<66}{:>8}{:>8}{:>8}{:>8}",
        "", "min", "median", "p90", "max"
    );
    line(
        "Secret updated → used by the next request of an open connection",
        rotations,
    );
    line(
        "a pod's cgroup → its connections are redirected",
        pods.whole,
    );
    line(
        "  of which the container runtime, until a process is there",
        pods.runtime,
    );
    line("  of which Postern", pods.postern);
    println!("\nagent before these pods: {before}; after they are gone: {after}");
    Ok(())
}

/// What a process holds.
struct Footprint {
    resident_kib: u64,
    descriptors: usize,
}

impl Footprint {
    fn of_agent(world: &World) -> Result<Self> {
        let pid = world.agent.as_ref().context("no agent runs")?.pid();
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        let folder = format!("/proc/{pid}/fd");
        let descriptors = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
        Ok(Self {
            resident_kib: resident.context("no resident size")?,
            descriptors: descriptors.count(),
        })
    }
}

impl std::fmt::Display for Footprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (resident, descriptors) = (self.resident_kib / 1024, self.descriptors);
        write!(f, "{resident} MiB resident, {descriptors} descriptors")
    }
}

fn line(title: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| {
        let last = times.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a few dozen figures"
        )]
        let place = (last as f64 * share).round() as usize;
        times
            .get(place)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    };
    println!(
        "{title:<66}{:>8.1}{:>8.1}{:>8.1}{:>8.1}",
        at(0.0),
        at(0.5),
        at(0.9),
        at(1.0)
    );
}

/// When each credential was first seen by the upstream.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Seen {
    fn note(&self, head: &str) {
        let token = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| value.trim().to_owned());
        if let Some(token) = token {
            self.lock().entry(token).or_insert_with(Instant::now);
        }
    }

    fn first(&self, token: &str) -> Option<Instant> {
        self.lock().get(&format!("Bearer {token}")).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod asks an API over one connection without a pause; the token in the Secret changes.
async fn rotations(world: &World, rounds: usize) -> Result<Vec<Duration>> {
    let seen = Seen::default();
    let upstream = seen.clone();
    world
        .node
        .inside(async move {
            let listener = TcpListener::bind(UPSTREAM).await?;
            tokio::spawn(serve(listener, upstream));
            anyhow::Ok(())
        })
        .await?;
    world.apply(&manifests::bare_namespace(TEAM))?;
    world.apply(&manifests::list(&[token("token-0"), connector()]))?;
    let ask = format!("curl --silent 'http://{UPSTREAM}/[1-100000000]' > /dev/null");
    wait::until("the Connector's credential", async || {
        let conditions = world.kubectl(&["get", "connectors", "--namespace", TEAM])?;
        Ok(conditions.contains("True").then_some(()))
    })
    .await?;
    world.start_pod(TEAM, "asks", Trust::Postern, &format!("sleep 2; {ask}"))?;
    let first = seen.clone();
    wait::until_true("the first request", move || {
        Ok(first.first("token-0").is_some())
    })
    .await?;

    let client = client(world).await?;
    let mut times = Vec::new();
    for round in 1..=rounds {
        let name = format!("token-{round}");
        let (secrets, patch) = (
            Api::<Secret>::namespaced(client.clone(), TEAM),
            json!({"stringData": {"token": name}}),
        );
        let updated = world
            .node
            .inside(async move {
                let params = PatchParams::default();
                secrets.patch("api", &params, &Patch::Merge(patch)).await?;
                anyhow::Ok(Instant::now())
            })
            .await?;
        let seen = seen.clone();
        let used = wait::until("the new token", async || Ok(seen.first(&name))).await?;
        times.push(used.saturating_duration_since(updated));
        sleep(Duration::from_millis(50)).await;
    }
    world.delete_pod(TEAM, "asks").await?;
    Ok(times)
}

async fn serve(listener: TcpListener, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, seen.clone()));
    }
}

/// Answers every request of a connection with nothing.
async fn answer(mut stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut text = Vec::new();
    loop {
        if stream.read_buf(&mut text).await? == 0 {
            return Ok(());
        }
        while let Some(end) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            seen.note(&String::from_utf8_lossy(&text[..end]));
            text.drain(..end + 4);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
    }
}

async fn client(world: &World) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(&world.api.kubeconfig(None))?;
    world
        .node
        .inside(async move {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        })
        .await
}

fn token(token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "api", "namespace": TEAM},
        "type": "connectors.cpaas.io/bearer-token",
        "stringData": {"token": token},
    })
}

fn connector() -> Value {
    json!({
        "apiVersion": "connectors.postern.dev/v1alpha1",
        "kind": "Connector",
        "metadata": {"name": "registry", "namespace": TEAM},
        "spec": {
            "connectorClassName": "generic-bearer",
            "address": format!("http://{UPSTREAM}"),
            "auth": {"name": "bearerTokenAuth", "secretRef": {"name": "api"}},
        },
    })
}

#[derive(Default)]
struct PodTimes {
    whole: Vec<Duration>,
    runtime: Vec<Duration>,
    postern: Vec<Duration>,
}

/// Pods are made, one after the other; what is granted to them is on the node already.
async fn pods(world: &World, rounds: usize) -> Result<PodTimes> {
    world.start_pod(TEAM, "first", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "first").await?;
    let mut times = PodTimes::default();
    for round in 0..rounds {
        let name = format!("pod-{round}");
        world.start_pod(TEAM, &name, Trust::Postern, "sleep 1000")?;
        let uid = wait::until("the pod's uid", async || {
            let pod = world.handle().object("v1", "pods", TEAM, &name);
            let pod = pod.map_err(|error| anyhow!("{error:?}"))?;
            Ok(pod["metadata"]["uid"].as_str().map(str::to_owned))
        })
        .await?;
        let kubepods = world.node.kubepods();
        let sandbox = format!("/proc/{}/ns/net", world.node.sandbox().pid());
        let seen = tokio::task::spawn_blocking(move || watch(&kubepods, &uid, &sandbox)).await??;
        let log = world
            .agent
            .as_ref()
            .context("no agent runs")?
            .log_file()
            .to_owned();
        let mark = format!("pod={TEAM}/{name} ");
        let served = wait::until("a served pod", async || served_at(&log, &mark)).await?;
        let since = |earlier: SystemTime| served.duration_since(earlier).unwrap_or_default();
        times.whole.push(since(seen.cgroup));
        times.postern.push(since(seen.process));
        times
            .runtime
            .push(seen.process.duration_since(seen.cgroup).unwrap_or_default());
        world.delete_pod(TEAM, &name).await?;
    }
    Ok(times)
}

/// When a pod's cgroup was there, and when a process of it was in a namespace of its own.
struct Sightings {
    cgroup: SystemTime,
    process: SystemTime,
}

/// Looks all the time, because whatever tells it takes longer.
fn watch(kubepods: &Path, uid: &str, node: &str) -> Result<Sightings> {
    let node = fs::metadata(node).context("the node has no network")?.ino();
    let path: PathBuf = kubepods.join("besteffort").join(format!("pod{uid}"));
    let deadline = Instant::now() + wait::LIMIT;
    // The directory says itself when it was made.
    let cgroup = poll(deadline, || {
        fs::metadata(&path).and_then(|found| found.modified()).ok()
    })?;
    let process = poll(deadline, || {
        let own = processes(&path).into_iter().any(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found.ino() != node)
        });
        own.then(SystemTime::now)
    })?;
    Ok(Sightings { cgroup, process })
}

fn poll<T>(deadline: Instant, look: impl Fn() -> Option<T>) -> Result<T> {
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            return Err(anyhow!("a pod does not start"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Of the pod's sandbox and containers.
fn processes(cgroup: &Path) -> Vec<String> {
    let folders = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let texts = folders.filter_map(|it| fs::read_to_string(it.path().join("cgroup.procs")).ok());
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The time of the agent's line about a pod.
fn served_at(log: &Path, mark: &str) -> Result<Option<SystemTime>> {
    let text = fs::read_to_string(log).context("the agent has no log")?;
    let line = text
        .lines()
        .find(|line| line.contains("serving a pod") && line.contains(mark));
    let Some(line) = line else {
        return Ok(None);
    };
    let stamp = line.split_whitespace().next().unwrap_or_default();
    let time: k8s_openapi::jiff::Timestamp = stamp
        .parse()
        .with_context(|| format!("no time in front of {line:?}"))?;
    Ok(Some(time.into()))
}
