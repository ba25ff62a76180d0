//! What pods see, and what is seen of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use mininode::{CgroupLayout, Options};
use serde_json::json;
use testkit::SandboxOptions;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::{World, address, idle, script, until};

/// All processes in a cgroup and below, as this machine numbers them.
fn processes(cgroup: &PathBuf) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    for entry in fs::read_dir(cgroup).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

async fn is_in_its_cgroup(
    layout: CgroupLayout,
    path: impl Fn(&str) -> String,
    child: impl Fn(&str) -> String,
) {
    let world = World::new(layout).await;
    let uid = world.create("one", &idle());
    let pod = world.reach("one", "Running").await;

    let cgroup = world.node.cgroup().join(path(&uid));
    assert!(cgroup.starts_with(world.node.kubepods()));
    let found = processes(&cgroup);
    // The sandbox's, the shell, and its sleep unless it is between two.
    assert!(found.len() >= 2, "{found:?}");
    let shell = found.iter().find(|pid| {
        testkit::proc::cmdline(**pid)
            .is_ok_and(|line| line.first().is_some_and(|word| word == "sh"))
    });
    let network = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino();
    let of_pod = network(&shell.unwrap().to_string());
    assert_ne!(of_pod, network("self"));
    assert_ne!(of_pod, network(&world.node.sandbox().pid().to_string()));

    let ip: Ipv4Addr = address(&pod).parse().unwrap();
    assert_eq!(ip.octets()[..3], [10, 88, 0]);
    assert_eq!(world.node.subnet(), "10.88.0.0/24");
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": address(&pod)}]));
    assert_eq!(pod["status"]["hostIP"], world.node.address().to_string());
    let container = &pod["status"]["containerStatuses"][0];
    let id = container["containerID"].as_str().unwrap();
    let id = id.strip_prefix("containerd://").unwrap();
    assert!(processes(&cgroup.join(child(id))).contains(shell.unwrap()));
    assert_eq!(container["name"], "main");
    assert_eq!(container["ready"], true);
    assert!(container["state"]["running"]["startedAt"].is_string());
}

#[tokio::test]
async fn a_pod_is_in_its_cgroup_as_the_cgroupfs_driver_names_it() {
    is_in_its_cgroup(
        CgroupLayout::Cgroupfs,
        |uid| format!("kubepods/besteffort/pod{uid}"),
        str::to_owned,
    )
    .await;
}

#[tokio::test]
async fn a_pod_is_in_its_cgroup_as_the_systemd_driver_names_it() {
    let class = "kubepods.slice/kubepods-besteffort.slice";
    is_in_its_cgroup(
        CgroupLayout::Systemd,
        |uid| {
            format!(
                "{class}/kubepods-besteffort-pod{}.slice",
                uid.replace('-', "_")
            )
        },
        |id| format!("cri-containerd-{id}.scope"),
    )
    .await;
}

#[tokio::test]
async fn pods_reach_each_other_and_what_runs_on_the_node() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    // Any address of the node will do, not just the bridge's.
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let listener = world.node.inside(TcpListener::bind(any)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    world
        .node
        .inside(async move {
            // The listener was made inside, and works from any runtime's thread.
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    drop(socket.write_all(b"from the node").await);
                }
            });
            anyhow::Ok(())
        })
        .await
        .unwrap();

    world.create("server", &script("echo from a pod | nc -l -p 8080"));
    world.create("client", &idle());
    let server = world.reach("server", "Running").await;
    let client = world.reach("client", "Running").await;
    assert_ne!(address(&server), address(&client));
    let other = address(&server);
    let connect = format!("until nc {other} 8080 </dev/null; do sleep 0.1; done");
    assert_eq!(world.sh("client", &connect).await, "from a pod");
    let node = world.node.address();
    let connect = format!("nc {node} {port} </dev/null");
    assert_eq!(world.sh("client", &connect).await, "from the node");
    // Nobody is left who could want the answer.
    world.reach("server", "Succeeded").await;
}

#[tokio::test]
async fn a_container_sees_its_files_names_and_variables() {
    let world = World::with(Options {
        network: SandboxOptions {
            nameserver: Some("192.0.2.53".parse().unwrap()),
            ..SandboxOptions::default()
        },
        ..Options::default()
    })
    .await;
    let map = json!({
        "metadata": {"name": "settings"},
        "data": {"a.conf": "a = 1\n", "b.conf": "b = 2\n"},
        "binaryData": {"raw": "AAEC"},
    });
    world
        .api()
        .create("v1", "configmaps", "default", map)
        .unwrap();
    let mut spec = idle();
    spec["hostAliases"] = json!([{"ip": "192.0.2.10", "hostnames": ["one.test", "two.test"]}]);
    spec["hostname"] = json!("given");
    spec["volumes"] = json!([
        {"name": "all", "configMap": {"name": "settings"}},
        {"name": "some", "configMap": {
            "name": "settings", "items": [{"key": "b.conf", "path": "deep/b", "mode": 0o600}]}},
        {"name": "scratch", "emptyDir": {}},
    ]);
    let main = &mut spec["containers"][0];
    main["env"] = json!([{"name": "GREETING", "value": "hello world"}]);
    main["workingDir"] = json!("/all");
    main["volumeMounts"] = json!([
        {"name": "all", "mountPath": "/all", "readOnly": true},
        {"name": "some", "mountPath": "/some"},
        {"name": "all", "mountPath": "/etc/a.conf", "subPath": "a.conf"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]);
    main["securityContext"] = json!({"runAsUser": 65534});
    world.create("one", &spec);
    let pod = world.reach("one", "Running").await;

    assert_eq!(
        world.sh("one", "cat a.conf b.conf; od -An -tx1 raw").await,
        "a = 1\nb = 2\n 00 01 02"
    );
    assert_eq!(
        world.sh("one", "ls -l /some/deep").await.split(' ').next(),
        Some("total")
    );
    assert_eq!(world.sh("one", "stat -c %a /some/deep/b").await, "600");
    assert_eq!(world.sh("one", "cat /etc/a.conf").await, "a = 1");
    assert_eq!(
        world
            .sh("one", "echo x > /scratch/x; cat /scratch/x; id -u")
            .await,
        "x\n65534"
    );
    let denied = world.exec("one", &["sh", "-c", "echo x > /all/x"]).await;
    assert!(!denied.status.success());
    assert_eq!(
        world.sh("one", "echo $GREETING; hostname").await,
        "hello world\ngiven"
    );
    let resolver = world.sh("one", "cat /etc/resolv.conf").await;
    assert!(resolver.contains("nameserver 192.0.2.53"), "{resolver}");
    let hosts = world.sh("one", "cat /etc/hosts").await;
    assert!(hosts.contains("192.0.2.10 one.test two.test"), "{hosts}");
    assert!(
        hosts.contains(&format!("{} given", address(&pod))),
        "{hosts}"
    );
}

#[tokio::test]
async fn exit_codes_logs_and_restarts_are_reported() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    world.create("fails", &script("echo out; echo err >&2; exit 3"));
    world.create("works", &script("echo done"));
    let mut again =
        script("echo once; test -e /all/seen || { touch /all/seen; exit 1; }; sleep 1000");
    again["restartPolicy"] = json!("OnFailure");
    again["volumes"] = json!([{"name": "all", "emptyDir": {}}]);
    again["containers"][0]["volumeMounts"] = json!([{"name": "all", "mountPath": "/all"}]);
    world.create("again", &again);
    let mut absent = script("true");
    absent["containers"][0]["image"] = json!("localhost/postern/absent:latest");
    world.create("absent", &absent);

    let pod = world.reach("fails", "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 3);
    assert!(ended["finishedAt"].is_string());
    let logs = world.node.logs("default", "fails", "main").await.unwrap();
    let mut lines: Vec<_> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);

    let pod = world.reach("works", "Succeeded").await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        0
    );
    let error = world
        .node
        .exec("default", "works", "main", &["true"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not run"), "{error}");

    let pod = world.reach("absent", "Failed").await;
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(message.contains("localhost/postern/absent"), "{message}");

    until("a container runs again", || {
        let pod = world.pod("again").unwrap();
        let container = &pod["status"]["containerStatuses"][0];
        container["restartCount"] == 1 && container["ready"] == true
    })
    .await;
    assert_eq!(
        world.node.logs("default", "again", "main").await.unwrap(),
        "once\n"
    );
}

#[tokio::test]
async fn a_pod_of_the_hosts_network_is_in_the_nodes() {
    let world = World::new(CgroupLayout::Systemd).await;
    let mut spec = idle();
    spec["hostNetwork"] = json!(true);
    world.create("one", &spec);
    let pod = world.reach("one", "Running").await;
    let node = world.node.address().to_string();
    assert_eq!(address(&pod), node);
    let seen = world.sh("one", "ip -o -4 address show dev cni0").await;
    assert!(seen.contains(&node), "{seen}");
}
