//! Pods in a cgroup tree, as a kubelet would make them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use postern::workload::{
    Cgroup,
    pods::{PodEvent, PodWatcher, find_netns, outermost},
};
use testkit::{Sandbox, SandboxOptions};
use tokio::time::timeout;

const FIRST: &str = "0e4b2a1c-77d1-4f0e-9c55-2f6f3a1b9d10";
const SECOND: &str = "5d1f9f3e-2f4c-4c8e-8a63-0e1fb0c3a7d2";
const LIMIT: Duration = Duration::from_secs(20);

/// A cgroup that stands for the mount of a node.
struct Node(Cgroup);

impl Node {
    fn new(name: &str) -> Result<Self> {
        let name = format!("postern-test-{}-{name}", std::process::id());
        let spare = Path::new("/run/postern-test-cgroups");
        Ok(Self(Cgroup::create(&name, spare)?))
    }

    fn mount(&self) -> &Path {
        self.0.path()
    }

    fn make(&self, path: &str) -> Result<PathBuf> {
        let path = self.mount().join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

async fn next(watcher: &mut PodWatcher) -> Result<PodEvent> {
    Ok(timeout(LIMIT, watcher.next()).await.context("no event")??)
}

fn uid(event: &PodEvent) -> (&'static str, &str) {
    match event {
        PodEvent::Appeared(pod) => ("appeared", pod.uid.as_str()),
        PodEvent::Vanished(pod) => ("vanished", pod.uid.as_str()),
    }
}

#[tokio::test]
async fn pods_of_both_drivers_come_and_go() -> Result<()> {
    let node = Node::new("drivers")?;
    let systemd = SECOND.replace('-', "_");
    for (first, second) in [
        (
            format!("kubepods/pod{FIRST}"),
            format!("kubepods/burstable/pod{SECOND}"),
        ),
        (
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice",
                FIRST.replace('-', "_")
            ),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
                 kubelet-kubepods-besteffort-pod{systemd}.slice"
            ),
        ),
    ] {
        let first = node.make(&first)?;
        let mut watcher = PodWatcher::new(node.mount())?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("appeared", FIRST), "{event:?}");

        // Its class appears with it.
        let second = node.make(&second)?;
        fs::create_dir(second.join("container"))?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("appeared", SECOND), "{event:?}");
        let PodEvent::Appeared(pod) = event else {
            unreachable!("checked above")
        };
        ensure!(pod.path == second);

        fs::remove_dir(&first)?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("vanished", FIRST), "{event:?}");
        fs::remove_dir(second.join("container"))?;
        fs::remove_dir(&second)?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("vanished", SECOND), "{event:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_of_pods_is_seen_completely() -> Result<()> {
    const PODS: usize = 200;
    let node = Node::new("burst")?;
    node.make("kubepods/besteffort")?;
    let mut watcher = PodWatcher::new(node.mount())?;
    for n in 0..PODS {
        node.make(
            &format!("kubepods/besteffort/pod{FIRST}").replace("0e4b2a1c", &format!("{n:08x}")),
        )?;
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < PODS {
        let event = next(&mut watcher).await?;
        let (what, uid) = uid(&event);
        ensure!(
            what == "appeared" && seen.insert(uid.to_owned()),
            "{event:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn pods_of_a_cluster_inside_a_pod_are_not_the_nodes() -> Result<()> {
    let node = Node::new("nested")?;
    let inner = format!("kubepods/pod{FIRST}/container/kubepods/besteffort");
    node.make(&format!("{inner}/pod{SECOND}"))?;
    ensure!(outermost(node.mount())? == [node.mount().join("kubepods")]);
    let mut watcher = PodWatcher::new(node.mount())?;
    let event = next(&mut watcher).await?;
    ensure!(uid(&event) == ("appeared", FIRST), "{event:?}");
    // Nor are those that come later.
    node.make(&inner.replace(FIRST, SECOND))?;
    node.make(&format!("{inner}/pod{SECOND}").replace("besteffort", "burstable"))?;
    let event = next(&mut watcher).await?;
    ensure!(uid(&event) == ("appeared", SECOND), "{event:?}");
    let PodEvent::Appeared(pod) = event else {
        unreachable!("checked above")
    };
    ensure!(pod.path == node.mount().join(format!("kubepods/pod{SECOND}")));
    ensure!(watcher.try_next().is_none());
    Ok(())
}

#[tokio::test]
async fn a_directory_that_is_made_again_is_watched_again() -> Result<()> {
    let node = Node::new("again")?;
    let class = node.make("kubepods/besteffort")?;
    let mut watcher = PodWatcher::new(node.mount())?;
    for _ in 0..2 {
        fs::remove_dir(&class)?;
        fs::remove_dir(node.mount().join("kubepods"))?;
        node.make("kubepods/besteffort")?;
        // Into a directory that is there already, so that its own notification is needed.
        let pod = class.join(format!("pod{FIRST}"));
        fs::create_dir(&pod)?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("appeared", FIRST), "{event:?}");
        fs::remove_dir(&pod)?;
        let event = next(&mut watcher).await?;
        ensure!(uid(&event) == ("vanished", FIRST), "{event:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_machine_that_is_no_node_is_told_so() -> Result<()> {
    let node = Node::new("empty")?;
    let error = PodWatcher::new(node.mount())
        .err()
        .context("it watches nothing")?;
    ensure!(error.to_string().contains("no kubepods cgroup"), "{error}");
    Ok(())
}

#[test]
fn a_namespace_counts_only_with_the_pods_address() -> Result<()> {
    let node = Node::new("netns")?;
    let pod = node.make(&format!("kubepods/pod{FIRST}/container"))?;
    let ip: IpAddr = "192.0.2.77".parse()?;
    let sandbox = Sandbox::new(&SandboxOptions {
        addresses: vec![ip],
        ..SandboxOptions::default()
    })?;
    let pod_cgroup = pod.parent().context("a parent")?;
    ensure!(find_netns(pod_cgroup, &[ip])?.is_none(), "nothing runs yet");

    // A process of the node in the pod's cgroup does not lend it the node's namespace.
    let enter = "echo 0 > \"$0/cgroup.procs\" && exec sleep 1000";
    let mut stranger = Command::new("sh").args(["-c", enter]).arg(&pod).spawn()?;
    let mut command = sandbox.command("sh");
    let mut own = command.args(["-c", enter]).arg(&pod).spawn()?;
    let found = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        find_netns(pod_cgroup, &[ip]).transpose()
    });
    let other = find_netns(pod_cgroup, &["192.0.2.78".parse()?]);
    for child in [&mut stranger, &mut own] {
        child.kill()?;
        child.wait()?;
    }
    let netns = found.context("not found")??;
    ensure!(other?.is_none(), "a namespace without the address");
    let expected = fs::read_link(format!("/proc/{}/ns/net", sandbox.pid()))?;
    let inside = netns
        .netns
        .run(|| fs::read_link("/proc/thread-self/ns/net"))??;
    ensure!(
        inside == expected,
        "{} is not {}",
        inside.display(),
        expected.display()
    );
    Ok(())
}
