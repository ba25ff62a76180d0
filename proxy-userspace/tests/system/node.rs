//! A node that serves a pod: grants that change, ways out, and what is left behind.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    process::Command,
    sync::Arc,
};

use anyhow::{Result, ensure};
use postern::{
    node::{Granted, Node},
    state::Scheme,
    tls::Roots,
    workload::PolicyId,
};

use crate::{
    rig::{CURL_REFUSED, POLICY, Pod, policy, settled},
    support::{output, stdout},
};

fn start(pod: &Pod, granted: &[Granted]) -> Result<Node> {
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, granted)?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_credential_is_used_by_the_next_request_of_an_open_connection() -> Result<()> {
    let pod = Pod::new("rotation")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let first = pod.connector(1, Scheme::Http, port, "first");
    let mut node = start(&pod, std::slice::from_ref(&first))?;
    let mut open = pod.open(port)?;
    // In the clear, hence not through the pod's network.
    ensure!(open.get(&host)?.body == format!("{host} Bearer first"));

    let mut second = pod.connector(1, Scheme::Http, port, "second");
    second.binding.revision += 1;
    node.set_policies(policy(&[second.clone()]), &Roots::none())?;
    ensure!(open.get(&host)?.body == format!("{host} Bearer second"));

    second.binding.usable = false;
    node.set_policies(policy(&[second.clone()]), &Roots::none())?;
    let answer = open.get(&host)?;
    ensure!(
        answer.status == 503 && answer.body.contains("default/c1"),
        "{answer:?}"
    );
    let refused = pod.curl(&[&pod.url(port)])?;
    ensure!(refused.status.code() == Some(CURL_REFUSED), "{refused:?}");
    ensure!(node.stats()?.refused_cred == 1);

    second.binding.usable = true;
    node.set_policies(policy(&[second]), &Roots::none())?;
    ensure!(open.get(&host)?.body == format!("{host} Bearer second"));
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{host} Bearer second"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_policy_holds_for_open_and_for_new_connections() -> Result<()> {
    let pod = Pod::new("policy")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let mut node = start(&pod, &[])?;
    let policies = BTreeMap::from([
        (POLICY, vec![pod.connector(1, Scheme::Http, port, "first")]),
        (
            PolicyId(2),
            vec![pod.connector(2, Scheme::Http, port, "second")],
        ),
        (PolicyId(3), Vec::new()),
    ]);
    node.set_policies(policies, &Roots::none())?;
    let mut open = pod.open(port)?;
    ensure!(open.get(&host)?.body == format!("{host} Bearer first"));

    node.set_policy(pod.cgroup.id(), PolicyId(2))?;
    ensure!(open.get(&host)?.body == format!("{host} Bearer second"));
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{host} Bearer second"));

    node.set_policy(pod.cgroup.id(), PolicyId(3))?;
    let answer = open.get(&host)?;
    ensure!(
        answer.status == 403 && answer.closes && answer.body.contains("default/pod"),
        "{answer:?}"
    );
    open.ended()?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} nothing", pod.address));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_or_passed_through_leaves_from_the_pods_network() -> Result<()> {
    let pod = Pod::new("egress")?;
    let (tls, plain) = (
        pod.upstream(Scheme::Https).await?,
        pod.upstream(Scheme::Http).await?,
    );
    let granted = [
        pod.connector(1, Scheme::Https, tls, "token"),
        // Its clients speak something else than it says.
        pod.connector(2, Scheme::Https, plain, "token"),
    ];
    let (proxy, root_pem) = pod.proxy_with_root()?;
    let ca = testkit::TempDir::new("ca")?;
    let ca = ca.write("ca.pem", root_pem)?;
    let mut node = Node::start(proxy, pod.cgroup.levels())?;
    pod.serve(&mut node, &granted)?;

    let url = format!("https://{}:{tls}/", pod.host);
    let ca = ca.to_string_lossy().into_owned();
    let seen = pod.seen(&["--cacert", &ca, &url])?;
    ensure!(seen == format!("{} Bearer token", pod.address), "{seen}");
    let seen = pod.seen(&[&pod.url(plain)])?;
    ensure!(seen == format!("{} nothing", pod.address), "{seen}");
    let stats = node.stats()?;
    ensure!(stats.redirected == 2, "{stats:?}");

    // Kept for the next request, and gone with the pod.
    ensure!(pod.held()? > 0 && pod.sockets("established")? > 0);
    node.withdraw(pod.cgroup.id())?;
    settled(|| Ok(pod.held()? == 0 && pod.sockets("established")? == 0)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_does_not_lead_to_services_of_the_node_alone() -> Result<()> {
    let pod = Pod::new("node-only")?;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    server.set_nonblocking(true)?;
    let port = server.local_addr()?.port();
    for host in ["127.0.0.1", "localhost"] {
        let mut granted = pod.connector(1, Scheme::Http, port, "token");
        let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
        connector.address.host = host.into();
        granted.connector = Arc::new(connector);
        let mut node = start(&pod, &[granted])?;
        node.resolve().await?;
        let url = format!("http://{host}:{port}/");
        let refused = pod.seen(&["--ipv4", "--write-out", "%{http_code}", &url])?;
        ensure!(
            refused.contains("127.0.0.1") && refused.contains("a loopback address"),
            "{refused}"
        );
        ensure!(refused.ends_with("502"), "{refused}");
        ensure!(node.stats()?.redirected == 1);
    }
    let untouched = server.accept();
    ensure!(
        untouched
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "{untouched:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_workload_is_left_alone_and_leaves_nothing() -> Result<()> {
    let pod = Pod::new("withdraw")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let mut node = start(&pod, &[pod.connector(1, Scheme::Http, port, "token")])?;
    let mut open = pod.open(port)?;
    ensure!(open.get(&host)?.body == format!("{host} Bearer token"));
    for _ in 0..100 {
        node.withdraw(pod.cgroup.id())?;
        pod.enrol(&mut node)?;
    }
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{host} Bearer token"));
    node.withdraw(pod.cgroup.id())?;
    // Again is no error.
    node.withdraw(pod.cgroup.id())?;

    open.ended()?;
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} nothing", pod.address));
    ensure!(node.enrolled().count() == 0);
    settled(|| Ok(pod.held()? == 0 && pod.sockets("listening")? == 0)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connectors_that_are_gone_leave_no_entries() -> Result<()> {
    let pod = Pod::new("entries")?;
    let port = pod.upstream(Scheme::Http).await?;
    let mut node = pod
        .agent(&[pod.connector(1, Scheme::Http, port, "token")])
        .await?;
    for map in ["WORKLOADS", "DESTINATIONS", "CREDENTIALS"] {
        ensure!(entries(&pod, map)? == 1, "{map}");
    }
    node.set_policies(BTreeMap::new(), &Roots::none())?;
    node.withdraw(pod.cgroup.id())?;
    for map in ["WORKLOADS", "DESTINATIONS", "CREDENTIALS"] {
        ensure!(entries(&pod, map)? == 0, "{map}");
    }
    Ok(())
}

/// Entries of a pinned map.
fn entries(pod: &Pod, map: &str) -> Result<usize> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pins().join("abi1").join(map));
    let entries: serde_json::Value = serde_json::from_str(&stdout(&output(dump)?))?;
    Ok(entries.as_array().map_or(0, Vec::len))
}
