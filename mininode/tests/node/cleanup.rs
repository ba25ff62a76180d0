//! What is left of a pod, and of a node: nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mininode::{CgroupLayout, Node, Options};
use testkit::{free_port, proc};

use crate::support::{World, idle, script, until};

#[tokio::test]
async fn a_deleted_pod_may_finish_and_then_is_gone() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    // The note on the node outlives the pod.
    let notes = testkit::TempDir::new("notes").unwrap();
    let mut spec =
        script("trap 'echo bye > /notes/bye; exit 0' TERM; while true; do sleep 0.1; done");
    spec["volumes"] = serde_json::json!([{"name": "notes", "hostPath": {"path": notes.path()}}]);
    spec["containers"][0]["volumeMounts"] =
        serde_json::json!([{"name": "notes", "mountPath": "/notes"}]);
    spec["terminationGracePeriodSeconds"] = serde_json::json!(60);
    let uid = world.create("one", &spec);
    world.reach("one", "Running").await;
    let cgroup = world.node.kubepods().join(format!("besteffort/pod{uid}"));
    assert!(cgroup.is_dir());

    world.delete("one", None).await;
    world.until_gone("one").await;
    assert_eq!(fs::read_to_string(notes.join("bye")).unwrap(), "bye\n");
    assert!(!cgroup.exists());
    assert!(world.node.kubepods().is_dir());
    assert!(world.node.logs("default", "one", "main").await.is_err());
    // Its address and its end of the bridge are given back.
    let links = testkit::run_ok({
        let mut ip = world.node.command("ip");
        ip.args(["-o", "link", "show", "type", "veth"]);
        ip
    });
    assert!(links.unwrap().stdout.is_empty());
}

#[tokio::test]
async fn a_pod_that_does_not_listen_is_killed_after_its_grace() {
    let world = World::new(CgroupLayout::Systemd).await;
    world.create(
        "deaf",
        &script("trap '' TERM; while true; do sleep 1; done"),
    );
    world.reach("deaf", "Running").await;
    // First with much time, then with little: the second counts.
    world.delete("deaf", Some(3600)).await;
    world.delete("deaf", Some(1)).await;
    world.until_gone("deaf").await;
    // One that is deleted without any grace is gone for the API before it is gone here.
    let uid = world.create("forced", &idle());
    world.reach("forced", "Running").await;
    world.delete("forced", Some(0)).await;
    world.until_gone("forced").await;
    let class = world.node.kubepods().join("kubepods-besteffort.slice");
    let cgroup = class.join(format!(
        "kubepods-besteffort-pod{}.slice",
        uid.replace('-', "_")
    ));
    until("its cgroup is gone", || !cgroup.exists()).await;
}

/// Processes, of all there are, for which something is true.
fn any_process(matches: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.join("ns").is_dir() && matches(path))
        .map(|path| fs::read_to_string(path.join("status")).unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn nothing_is_left_of_a_node() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    world.create("one", &idle());
    world.create("two", &script("trap '' TERM; while true; do sleep 1; done"));
    world.reach("one", "Running").await;
    world.reach("two", "Running").await;

    let cgroup = world.node.cgroup().to_owned();
    let service = fs::read_to_string(cgroup.join("system.slice/containerd.service/cgroup.procs"));
    let pids: Vec<u32> = service
        .unwrap()
        .lines()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let shims = pids.iter().filter(|pid| {
        let line = proc::cmdline(**pid).unwrap_or_default();
        line.iter().any(|word| word.contains("containerd-shim"))
    });
    assert_eq!(shims.count(), 2);
    let mounts = format!("/proc/{}/mountinfo", pids[0]);
    let folder = fs::read_to_string(mounts)
        .unwrap()
        .lines()
        .find_map(|line| {
            let at = line.split(' ').nth(4)?;
            Some(at.split_once("/state/")?.0.to_owned())
        })
        .unwrap();
    // Held open, so that no other namespace gets the number of one that has gone.
    let namespaces = ["net", "pid"].map(|kind| {
        let file = fs::File::open(format!("/proc/{}/ns/{kind}", pids[0])).unwrap();
        (kind, file.metadata().unwrap().ino(), file)
    });
    let inside = |path: &Path| {
        namespaces.iter().any(|(kind, inode, _)| {
            let own = fs::metadata(path.join("ns").join(kind));
            own.is_ok_and(|own| own.ino() == *inode)
        })
    };
    assert!(!any_process(inside).is_empty());

    drop(world);
    for pid in pids {
        assert!(!proc::is_alive(pid));
    }
    assert_eq!(any_process(inside), Vec::<String>::new());
    assert!(!cgroup.exists());
    assert!(!Path::new(&folder).exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&folder), "{mounts}");
}

#[tokio::test]
async fn nodes_do_not_disturb_each_other() {
    let (one, two) = tokio::join!(
        Node::start(Options::default()),
        Node::start(Options::default())
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.cgroup(), two.cgroup());
    // The same port of the same address, on both.
    let port = free_port().unwrap();
    let bind = || tokio::net::TcpListener::bind(("127.0.0.1", port));
    let first = one.inside(bind()).await.unwrap();
    let second = two.inside(bind()).await.unwrap();
    assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    let gone = one.cgroup().to_owned();
    drop(first);
    drop(one);
    assert!(!gone.exists());
    assert!(two.kubepods().is_dir());
}

/// Runs in a process of its own, for the test below.
#[tokio::test]
#[ignore = "waits to be killed"]
async fn a_node_that_waits() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    world.create("one", &idle());
    world.reach("one", "Running").await;
    println!("\ncgroup={}", world.node.cgroup().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn no_process_survives_a_killed_owner_and_the_next_node_sweeps_up() {
    // What it leaves there goes with the folder.
    let files = testkit::TempDir::new("owner").unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cleanup::a_node_that_waits",
            "--ignored",
            "--nocapture",
        ])
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let cgroup = output
        .lines()
        .find_map(|line| Some(PathBuf::from(line.unwrap().strip_prefix("cgroup=")?)))
        .unwrap();
    let populated = || {
        let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap();
        events.contains("populated 1")
    };
    assert!(populated());
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("its processes are gone", || !populated()).await;
    let next = Node::start(Options::default()).await.unwrap();
    assert!(!cgroup.exists());
    drop(next);
}
