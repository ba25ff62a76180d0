//! `postern explain` says what the kernel then does.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use postern::{
    node::{Granted, Node},
    state::{FailurePolicy, Scheme},
    tls::Roots,
    workload::PolicyId,
};
use serde_json::Value;
use testkit::TempDir;

use super::name_server::{NameServer, address};
use crate::{
    hosts::with_hosts,
    rig::{CURL_REFUSED, Pod, abi, policy},
    support::{output, stderr, stdout},
};

/// `postern explain` for a cgroup of the pod.
fn explain(pod: &Pod, cgroup: &Path, to: &str, more: &[&str]) -> Command {
    let mut explain = Command::new(env!("CARGO_BIN_EXE_postern"));
    explain.arg("explain").arg("--cgroup").arg(cgroup);
    explain.args(["--to", to]).arg("--pins").arg(pod.pins());
    explain.args(more);
    explain
}

/// The report, as programs read it.
fn report(pod: &Pod, cgroup: &Path, to: &str, more: &[&str]) -> Result<Value> {
    let more = [more, &["--output", "json"]].concat();
    let told = output(explain(pod, cgroup, to, &more))?;
    ensure!(told.status.success(), "{told:?}");
    Ok(serde_json::from_str(&stdout(&told))?)
}

/// What a connection of the pod meets.
fn met(pod: &Pod, below: &str, to: SocketAddr, transport: &str) -> Result<&'static str> {
    let join =
        format!("mkdir -p \"$0/{below}\" && echo 0 > \"$0/{below}/cgroup.procs\" || exit 99; ");
    if transport == "udp" {
        let script = format!("{join} exec 3<>\"/dev/udp/$1/$2\"");
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let udp = output(pod.command(&script, &[&ip, &port]))?;
        return Ok(if udp.status.success() {
            "leave-alone"
        } else {
            "refuse"
        });
    }
    let script = format!("{join} exec curl --silent --max-time 20 --noproxy '*' \"$1\"");
    let curl = output(pod.command(&script, &[&format!("http://{to}/")]))?;
    match (curl.status.code(), stdout(&curl)) {
        (Some(0), body) if body == format!("{} nothing", pod.address) => Ok("leave-alone"),
        (Some(0), body) if body == format!("{} Bearer token", pod.host) => Ok("redirect"),
        (Some(CURL_REFUSED), _) => Ok("refuse"),
        _ => bail!("{curl:?}"),
    }
}

/// Asserts that what is told is what happens, and why.
fn check(pod: &Pod, below: &str, port: u16, transport: &str, reason: &str) -> Result<Value> {
    let to = SocketAddr::new(pod.host, port);
    let happens = met(pod, below, to, transport)?;
    let flags: &[&str] = if transport == "udp" { &["--udp"] } else { &[] };
    let cgroup = pod.cgroup.path().join(below);
    let report = report(pod, &cgroup, &to.to_string(), flags)?;
    let [connection] = report["connections"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
    else {
        bail!("{report}");
    };
    ensure!(
        connection["reason"] == reason && connection["verdict"] == happens,
        "{reason}, {happens}: {report:#}"
    );
    Ok(report)
}

/// A node that serves the pod, with one Connector.
async fn node(pod: &Pod, granted: &Granted) -> Result<Node> {
    let mut node = pod.agent(std::slice::from_ref(granted)).await?;
    node.resolve().await?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_what_happens() -> Result<()> {
    let pod = Pod::new("explain")?;
    let port = pod.upstream(Scheme::Http).await?;
    let other = pod.upstream(Scheme::Http).await?;
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    let mut node = node(&pod, &granted).await?;
    let id = pod.cgroup.id();

    let told = check(&pod, "", port, "tcp", "redirected")?;
    ensure!(
        told["workload"]["cgroup_id"] == id
            && told["workload"]["below"] == 0
            && told["agent"]["answers"] == true
            && told["connections"][0]["credential"]["state"] == "usable"
            && told["connections"][0]["destination"]["counts"]["connector"] == 1,
        "{told:#}"
    );
    let nested = check(&pod, "a/b", port, "tcp", "redirected")?;
    ensure!(
        nested["workload"]["cgroup_id"] == id && nested["workload"]["below"] == 2,
        "{nested:#}"
    );
    check(&pod, "", other, "tcp", "unwanted")?;
    check(&pod, "", port, "udp", "udp")?;
    check(&pod, "a/b", port, "udp", "udp")?;
    check(&pod, "", other, "udp", "unwanted")?;

    granted.binding.usable = false;
    granted.binding.revision = 0xc0_ffee;
    node.set_policies(policy(&[granted.clone()]), &Roots::none())?;
    let told = check(&pod, "", port, "tcp", "credential-refused")?;
    let credential = &told["connections"][0]["credential"];
    ensure!(credential["revision"] == "0000000000c0ffee", "{told:#}");
    granted.binding.usable = true;
    node.set_policies(policy(&[granted.clone()]), &Roots::none())?;

    node.withdraw(id)?;
    let told = check(&pod, "", port, "tcp", "not-enrolled")?;
    ensure!(told["workload"].is_null(), "{told:#}");
    for (known, number) in [(None, None), (Some(PolicyId(1)), Some(1))] {
        node.pend(id, known, pod.cgroup.path())?;
        let told = check(&pod, "", port, "tcp", "pending")?;
        let workload = &told["workload"];
        ensure!(
            workload["pending"] == true && workload["policy"].as_u64() == number,
            "{told:#}"
        );
    }
    check(&pod, "", port, "udp", "udp")?;
    pod.enrol(&mut node)?;
    check(&pod, "", port, "tcp", "redirected")?;

    // It says that it ends.
    node.drain(Duration::ZERO).await;
    let told = check(&pod, "", port, "tcp", "stale")?;
    ensure!(told["agent"]["heartbeat_age_ms"].is_null(), "{told:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_open_is_told_so() -> Result<()> {
    let pod = Pod::new("explain-open")?;
    let port = pod.upstream(Scheme::Http).await?;
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    Arc::make_mut(&mut granted.connector).failure_policy = FailurePolicy::Open;
    let mut node = node(&pod, &granted).await?;
    check(&pod, "", port, "tcp", "redirected")?;
    check(&pod, "", port, "udp", "udp")?;
    node.withdraw(pod.cgroup.id())?;
    node.pend(pod.cgroup.id(), None, pod.cgroup.path())?;
    check(&pod, "", port, "tcp", "pending-open")?;
    pod.enrol(&mut node)?;
    node.drain(Duration::ZERO).await;
    check(&pod, "", port, "tcp", "stale-open")?;
    check(&pod, "", port, "udp", "stale-open")?;
    Ok(())
}

#[test]
fn a_name_is_told_by_its_addresses() -> Result<()> {
    const HOST: &str = "upstream.test";
    let pod = Pod::new("explain-name")?;
    with_hosts(&[(pod.secondary, HOST)], async || {
        let port = pod.upstream_at(pod.secondary, Scheme::Http).await?;
        let mut granted = pod.connector(1, Scheme::Http, port, "token");
        Arc::make_mut(&mut granted.connector).address.host = HOST.into();
        let mut node = pod.agent(&[granted]).await?;
        let told = || report(&pod, pod.cgroup.path(), &format!("{HOST}:{port}"), &[]);
        let addresses = |report: &Value| -> Vec<(String, Value)> {
            let connections = report["connections"].as_array();
            let connections = connections.into_iter().flatten();
            connections
                .map(|it| {
                    let address = it["address"].as_str().unwrap_or_default();
                    (address.to_owned(), it["known"].clone())
                })
                .collect()
        };
        // Nobody has resolved it.
        let nowhere = told()?;
        ensure!(addresses(&nowhere).is_empty(), "{nowhere:#}");
        ensure!(
            nowhere["name"]["wanted"][0]["connector"] == 1,
            "{nowhere:#}"
        );
        let words = output(explain(
            &pod,
            pod.cgroup.path(),
            &format!("{HOST}:{port}"),
            &[],
        ))?;
        ensure!(stdout(&words).contains("No address is known"), "{words:?}");

        let server = NameServer::start(&pod, vec![address(HOST, pod.host)])?;
        server.asked(&pod, HOST)?;
        let learned = told()?;
        let [(ip, known)] = &addresses(&learned)[..] else {
            bail!("{learned:#}");
        };
        ensure!(*ip == pod.host.to_string(), "{learned:#}");
        ensure!(known[0]["learned"]["ms_ago"].is_u64(), "{learned:#}");
        let connection = &learned["connections"][0];
        ensure!(
            connection["verdict"] == "redirect"
                && connection["destination"]["by_names"][0]["is_host"] == true,
            "{learned:#}"
        );
        let before = node.stats()?.redirected;
        let url = format!("http://{}/", SocketAddr::new(pod.host, port));
        pod.seen(&["--header", &format!("Host: {HOST}:{port}"), &url])?;
        ensure!(node.stats()?.redirected == before + 1);

        node.resolve().await?;
        let both = told()?;
        let mut expected = vec![pod.host.to_string(), pod.secondary.to_string()];
        expected.sort();
        let mut found: Vec<_> = addresses(&both).into_iter().map(|(ip, _)| ip).collect();
        found.sort();
        ensure!(found == expected, "{both:#}");
        ensure!(
            addresses(&both)
                .iter()
                .any(|(_, known)| known[0] == "resolved"),
            "{both:#}"
        );
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_has_a_reason() -> Result<()> {
    let pod = Pod::new("explain-errors")?;
    let fails = |cgroup: &Path, to: &str, says: &[&str]| -> Result<()> {
        let told = output(explain(&pod, cgroup, to, &[]))?;
        let error = stderr(&told);
        ensure!(!told.status.success(), "{told:?}");
        for says in says {
            ensure!(error.contains(says), "{says} is missing: {error}");
        }
        Ok(())
    };
    let here = pod.cgroup.path();
    fails(here, "192.0.2.1:80", &["postern agent", "--pins"])?;
    fails(Path::new("/proc"), "192.0.2.1:80", &["/proc", "cgroup v2"])?;
    let folder = TempDir::new("explain")?;
    fails(folder.path(), "192.0.2.1:80", &["cgroup v2"])?;
    fails(&here.join("nowhere"), "192.0.2.1:80", &["nowhere"])?;
    fails(here, "192.0.2.1", &["a host and a port"])?;
    fails(here, "2001:db8::1:80", &["brackets"])?;

    std::fs::create_dir_all(pod.pins().join("abi1"))?;
    fails(here, "192.0.2.1:80", &["abi1", "another version"])?;
    let node = pod.agent(&[]).await?;
    let above = here.parent().context("a cgroup above")?;
    let report = report(&pod, above, "192.0.2.1:80", &[])?;
    ensure!(
        report["connections"][0]["reason"] == "not-attached"
            && report["programs"]["attached_to"][0] == pod.cgroup.id(),
        "{report:#}"
    );
    // It needs no lock, and no agent.
    drop(node);
    ensure!(pod.pins().join(abi()).exists());
    let told = output(explain(&pod, here, "192.0.2.1:80", &[]))?;
    ensure!(told.status.success(), "{told:?}");
    Ok(())
}
