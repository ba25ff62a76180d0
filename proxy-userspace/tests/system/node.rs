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
    limits,
    node::{Granted, Node},
    state::{Address, FailurePolicy, Scheme},
    tls::Roots,
    workload::PolicyId,
};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use crate::{
    rig::{CURL_REFUSED, POLICY, Pod, policy, settled},
    support::{output, stdout},
};

fn start(pod: &Pod, granted: &[Granted]) -> Result<Node> {
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, granted)?;
    Ok(node)
}

/// Gives a sign of life. On a busy machine a map is not full before the kernel has waited too
/// long for one.
async fn beat(node: &mut Node) {
    let _ = timeout(limits::CLAIM_WATCH, node.keep_up()).await;
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
async fn a_connector_with_unusable_authorities_is_refused_unless_it_fails_open() -> Result<()> {
    let pod = Pod::new("authorities")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let mut node = start(&pod, &[pod.connector(1, Scheme::Http, port, "token")])?;
    let mut open = pod.open(port)?;
    ensure!(open.get(&host)?.status == 200);
    for (failure_policy, refused) in [(FailurePolicy::Closed, 1), (FailurePolicy::Open, 0)] {
        let mut granted = pod.connector(1, Scheme::Http, port, "token");
        let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
        connector.failure_policy = failure_policy;
        connector.extra_roots = vec![CertificateDer::from_slice(b"no certificate")].into();
        granted.connector = Arc::new(connector);
        // Again and again, for as long as it is so.
        for _ in 0..2 {
            let reported = node.set_policies(policy(&[granted.clone()]), &Roots::none())?;
            ensure!(reported.len() == 1, "{reported:?}");
        }
        let answer = pod.curl(&[&pod.url(port)])?;
        if refused == 1 {
            let kept = open.get(&host)?;
            ensure!(
                kept.status == 503 && kept.body.contains("default/c1"),
                "{kept:?}"
            );
            ensure!(answer.status.code() == Some(CURL_REFUSED), "{answer:?}");
        } else {
            ensure!(stdout(&answer) == format!("{} nothing", pod.address));
        }
    }
    ensure!(node.stats()?.refused_cred == 1);
    // Once they can be used, so can the Connector.
    let repaired = pod.connector(1, Scheme::Http, port, "token");
    ensure!(
        node.set_policies(policy(&[repaired]), &Roots::none())?
            .is_empty()
    );
    ensure!(pod.seen(&[&pod.url(port)])? == format!("{} Bearer token", pod.host));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_fills_the_map_leaves_room_for_the_others() -> Result<()> {
    let pod = Pod::new("full")?;
    let port = pod.upstream(Scheme::Http).await?;
    let expected = format!("{} Bearer token", pod.host);
    let mut node = start(&pod, &[])?;
    let mut huge = pod.connector(1, Scheme::Http, port, "other");
    let mut connector = Arc::try_unwrap(huge.connector).expect("nobody else has it");
    connector.extensions = (0..70_000)
        .map(|n| Address {
            host: Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n).to_string(),
            ..connector.address.clone()
        })
        .collect();
    huge.connector = Arc::new(connector);
    // It comes first in every order but that of size.
    node.set_policies(
        BTreeMap::from([(PolicyId(0), vec![huge.clone()])]),
        &Roots::none(),
    )?;
    let small = pod.connector(2, Scheme::Http, port, "token");
    let policies = BTreeMap::from([(PolicyId(0), vec![huge]), (POLICY, vec![small])]);
    let refused = node.set_policies(policies, &Roots::none())?;
    ensure!(refused.is_empty(), "{refused:?}");
    beat(&mut node).await;
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connectors_without_a_place_in_the_kernel_work_all_the_same() -> Result<()> {
    let pod = Pod::new("credentials")?;
    let port = pod.upstream(Scheme::Http).await?;
    let expected = format!("{} Bearer token", pod.host);
    let others = (1_u32..=17_000).map(|n| {
        let mut granted = pod.connector(n, Scheme::Http, port, "other");
        let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
        connector.extra_roots = Vec::new().into();
        connector.address.host = Ipv4Addr::from_bits(10 << 24 | n).to_string();
        granted.connector = Arc::new(connector);
        granted
    });
    let mut node = start(&pod, &[])?;
    let others = BTreeMap::from([(PolicyId(0), others.collect())]);
    node.set_policies(others.clone(), &Roots::none())?;
    // The map is full when it comes.
    let mut all = others;
    all.insert(
        POLICY,
        vec![pod.connector(20_000, Scheme::Http, port, "token")],
    );
    node.set_policies(all, &Roots::none())?;
    beat(&mut node).await;
    ensure!(pod.seen(&[&pod.url(port)])? == expected);
    ensure!(node.stats()?.redirected == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_end_when_the_node_does() -> Result<()> {
    let pod = Pod::new("idle")?;
    let port = pod.upstream(Scheme::Http).await?;
    let host = pod.host.to_string();
    let node = start(&pod, &[pod.connector(1, Scheme::Http, port, "token")])?;
    let mut open = pod.open(port)?;
    ensure!(!open.get(&host)?.closes);
    // Longer than a client may be idle otherwise, and than this test may take.
    node.drain(limits::HAND_OVER).await;
    open.ended()
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
        .arg(pod.pinned(map));
    let entries: serde_json::Value = serde_json::from_str(&stdout(&output(dump)?))?;
    Ok(entries.as_array().map_or(0, Vec::len))
}
