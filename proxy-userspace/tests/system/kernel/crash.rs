//! An agent in a process of its own is killed while clients go on.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use postern::{
    datapath::Succession,
    node::Node,
    state::{FailurePolicy, Scheme},
    tls::Roots,
    workload::{NetNs, Workload},
};
use serde::{Deserialize, Serialize};

use super::{
    clients::{Client, Goal, Habit},
    take_over::refused_as_stale,
};
use crate::rig::{
    CURL_REFUSED, HOOKS, POLICY, Pod, connector, granted, policy, proxy_for, settled,
};

/// Tells the process that is an agent whom to serve.
const ORDER: &str = "POSTERN_TEST_AGENT";

/// How long it may take until it serves, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// What an agent in another process has to know.
#[derive(Serialize, Deserialize)]
struct Order {
    pins: PathBuf,
    cgroup: PathBuf,
    cgroup_id: u64,
    levels: Vec<u8>,
    netns: PathBuf,
    /// Where the Connector that fails closed is, and that which fails open.
    closed: (IpAddr, u16),
    open: (IpAddr, u16),
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
async fn agent() -> Result<()> {
    let Some(order) = std::env::var_os(ORDER) else {
        return Ok(());
    };
    let order: Order = serde_json::from_slice(order.as_encoded_bytes())?;
    // It does not outlive the test.
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let (proxy, _) = proxy_for(order.closed.0)?;
    let mut node = Node::take_over(proxy, &order.levels, &order.pins, Succession::Refuse).await?;
    let at = |id, (ip, port)| connector(id, ip, Scheme::Http, port, "token");
    let mut open = at(2, order.open);
    open.failure_policy = FailurePolicy::Open;
    let granted = [granted(at(1, order.closed)), granted(open)];
    node.set_policies(policy(&granted), &Roots::none())?;
    node.attach(File::open(&order.cgroup)?)?;
    let workload = Workload {
        cgroup_id: order.cgroup_id,
        name: "default/pod".into(),
        policy: POLICY,
    };
    node.enrol(workload, NetNs::open(&order.netns)?, &order.cgroup)?;
    node.forget_strangers(|_| false)?;
    println!("\nserving");
    Err(node.keep_up().await.into())
}

/// An agent in a process of its own; killed with the value.
struct Agent(Child);

impl Agent {
    /// Starts one, and waits until it serves. Returns how long that took.
    fn start(order: &Order) -> Result<(Self, Duration)> {
        let started = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "kernel::crash::agent", "--nocapture"])
            .env(ORDER, serde_json::to_string(order)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let agent = Self(child);
        let (serves, served) = mpsc::channel();
        // Ends with the process.
        thread::spawn(move || {
            let mut lines = output.lines().map_while(Result::ok);
            let _ = serves.send(lines.any(|line| line == "serving"));
            // A process that cannot write that it takes long ends.
            lines.for_each(drop);
        });
        let served = served.recv_timeout(PATIENCE);
        ensure!(served == Ok(true), "it does not serve: {served:?}");
        Ok((agent, started.elapsed()))
    }

    /// SIGKILL: nothing is cleaned up.
    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_agent_concerns_nobody_but_those_who_dial_connectors() -> Result<()> {
    let pod = Pod::new("kill")?;
    let closed = pod.upstream(Scheme::Http).await?;
    let open = pod.upstream_at(pod.secondary, Scheme::Http).await?;
    let unwanted = pod.upstream(Scheme::Http).await?;
    let order = Order {
        pins: pod.pins().to_path_buf(),
        cgroup: pod.cgroup.path().to_path_buf(),
        cgroup_id: pod.cgroup.id(),
        levels: pod.cgroup.levels().to_vec(),
        netns: Path::new("/proc")
            .join(pod.sandbox.pid().to_string())
            .join("ns/net"),
        closed: (pod.host, closed),
        open: (pod.secondary, open),
    };
    let (served, direct) = (
        format!("{} Bearer token", pod.host),
        format!("{} nothing", pod.address),
    );
    let goal = |ip, port, body: &str| Goal {
        ip,
        port,
        body: body.to_owned(),
    };
    let (agent, first) = Agent::start(&order)?;
    pod.attaches(&HOOKS).await?;
    let links = pod.links()?;
    let mut bystanders = [
        Client::start(&pod, Habit::Dial, &goal(pod.host, unwanted, &direct))?,
        Client::start(&pod, Habit::Keep, &goal(pod.host, unwanted, &direct))?,
        Client::beside(&pod, Habit::Dial, &goal(pod.host, closed, &direct))?,
    ];
    // Its connections may fail, but must not go without the credential.
    let mut concerned = Client::start(&pod, Habit::Wish, &goal(pod.host, closed, &served))?;
    let open_url = format!("http://{}:{open}/", pod.secondary);
    ensure!(pod.seen(&[&pod.url(closed)])? == served);
    ensure!(pod.seen(&[&open_url])?.ends_with("Bearer token"));

    agent.kill()?;
    // Its listeners died with it.
    refuses(&pod, &pod.url(closed))?;
    pod.attaches(&HOOKS).await?;
    settled(|| {
        refuses(&pod, &pod.url(closed))?;
        refused_as_stale(&pod)
    })
    .await?;
    refuses(&pod, &pod.url(closed))?;
    ensure!(pod.seen(&[&open_url])? == direct);
    concerned.check()?;

    let (agent, second) = Agent::start(&order)?;
    ensure!(pod.seen(&[&pod.url(closed)])? == served);
    ensure!(pod.seen(&[&open_url])?.ends_with("Bearer token"));
    pod.attaches(&HOOKS).await?;
    ensure!(pod.links()?.keys().eq(links.keys()), "{links:?}");
    println!(
        "from exec to serving: {} ms with nothing there, {} ms after a crash",
        first.as_millis(),
        second.as_millis()
    );
    for bystander in &mut bystanders {
        bystander.check()?;
        ensure!(bystander.end()? > 0, "no answers");
    }
    ensure!(concerned.end()? > 0, "no answers");
    agent.kill()
}

fn refuses(pod: &Pod, url: &str) -> Result<()> {
    let refused = pod.curl(&[url])?;
    if refused.status.code() != Some(CURL_REFUSED) {
        bail!("{url} was not refused: {refused:?}");
    }
    Ok(())
}
