//! Workloads that are there before they are served.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, ensure};
use postern::{
    limits,
    node::{Granted, Node, NodeError},
    state::{FailurePolicy, Scheme},
    tls::Roots,
    workload::PolicyId,
};
use proxy_common::maps::{DESTINATION_FAIL_OPEN, Stats};

use super::{
    probe::Probe,
    rig::{GRACE_NS, POLICY, Rig, refused},
};
use crate::{
    rig::{CURL_REFUSED, HOOKS, PATIENCE, POLICY as GRANTED, Pod, SHARED_HOOKS, policy},
    support::stdout,
};

/// A workload that is pending, and a process of it.
fn pending(name: &str, flags: u32) -> Result<(Rig, Probe)> {
    let mut rig = Rig::tree(name, &[0], GRACE_NS)?;
    rig.redirect(&["198.51.100.7", "2001:db8::7"], flags)?;
    let (id, path) = (rig.cgroup.id(), rig.cgroup.path().to_owned());
    rig.datapath.learn(id, &path)?;
    rig.datapath.pend(id, POLICY)?;
    let probe = Probe::start(&rig.sandbox, Some(&path))?;
    Ok((rig, probe))
}

#[test]
fn only_what_its_policy_wants_is_refused() -> Result<()> {
    let (mut rig, mut probe) = pending("pending", 0)?;
    let refused = refused();
    probe.play(&[
        "socket a v4 stream",
        &format!("connect a 198.51.100.7:80 -> {refused}"),
        "connect a 198.51.100.7:81 -> ENETUNREACH",
        "socket b v6 stream",
        &format!("connect b [2001:db8::7]:8080 -> {refused}"),
        &format!("connect b [::ffff:198.51.100.7]:80 -> {refused}"),
        "socket c v4 dgram",
        &format!("sendto c 198.51.100.7:80 hello -> {refused}"),
        "sendto c 192.0.2.1:80 hello",
    ])?;
    let stats = rig.stats()?;
    let expected = Stats {
        connects: 4,
        untouched: 1,
        refused_pending: 3,
        refused_udp: 1,
        ..Stats::default()
    };
    ensure!(stats == expected, "{stats}\ninstead of {expected}");

    // The same socket, once the workload is served.
    let path = rig.cgroup.path().to_owned();
    rig.serve(&path, POLICY)?;
    probe.play(&["connect a 198.51.100.7:80", "exchange a -> 198.51.100.7:80"])
}

#[test]
fn what_fails_open_is_left_alone() -> Result<()> {
    let (rig, mut probe) = pending("pending-open", DESTINATION_FAIL_OPEN)?;
    probe.play(&[
        "socket a v4 stream",
        "connect a 198.51.100.7:80 -> ENETUNREACH",
        "socket b v4 dgram",
        "sendto b 198.51.100.7:80 hello -> ENETUNREACH",
    ])?;
    let stats = rig.stats()?;
    let expected = Stats {
        connects: 1,
        bypassed: 1,
        ..Stats::default()
    };
    ensure!(stats == expected, "{stats}\ninstead of {expected}");
    Ok(())
}

/// curl of the pod; whether it was refused.
fn is_refused(pod: &Pod, port: u16) -> Result<bool> {
    let output = pod.curl(&[&pod.url(port)])?;
    if output.status.success() {
        ensure!(
            stdout(&output) == format!("{} nothing", pod.address),
            "{output:?}"
        );
        return Ok(false);
    }
    ensure!(output.status.code() == Some(CURL_REFUSED), "{output:?}");
    Ok(true)
}

/// An agent that serves nobody yet.
async fn idle(pod: &Pod, policies: BTreeMap<PolicyId, Vec<Granted>>) -> Result<Node> {
    let mut node = pod.take_over().await?;
    node.set_grace(PATIENCE)?;
    node.set_policies(policies, &Roots::none())?;
    node.attach(pod.cgroup.directory())?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_unknown_grants_is_kept_from_what_any_policy_wants() -> Result<()> {
    let pod = Pod::new("pending-any")?;
    let (wanted, other) = (
        pod.upstream(Scheme::Http).await?,
        pod.upstream(Scheme::Http).await?,
    );
    let granted = pod.connector(1, Scheme::Http, wanted, "token");
    let others = BTreeMap::from([(PolicyId(9), vec![granted.clone()]), (GRANTED, Vec::new())]);
    let mut node = idle(&pod, others.clone()).await?;
    ensure!(!is_refused(&pod, wanted)?, "nobody knows of it");
    // Without any pod of this kind there is nothing for them in the maps.
    ensure!(node.stats()? == Stats::default());

    let id = pod.cgroup.id();
    // What is refused does not depend on what learning needs.
    ensure!(node.pend(id, None, Path::new("/nowhere")).is_err());
    ensure!(is_refused(&pod, wanted)? && !is_refused(&pod, other)?);
    ensure!(node.pend(id, None, pod.cgroup.path())?);
    pod.attaches(&HOOKS).await?;
    ensure!(is_refused(&pod, wanted)? && !is_refused(&pod, other)?);
    // What comes later counts as well, and what goes does not.
    let more = pod.connector(2, Scheme::Http, other, "token");
    node.set_policies(BTreeMap::from([(PolicyId(9), vec![more])]), &Roots::none())?;
    ensure!(!is_refused(&pod, wanted)? && is_refused(&pod, other)?);
    node.set_policies(others, &Roots::none())?;

    // It is not granted that Connector, then it is.
    node.pend(id, Some(GRANTED), pod.cgroup.path())?;
    ensure!(!is_refused(&pod, wanted)?);
    node.set_policies(policy(&[granted]), &Roots::none())?;
    ensure!(is_refused(&pod, wanted)?);
    node.resolve().await?;
    pod.enrol(&mut node)?;
    let served = format!("{} Bearer token", pod.host);
    ensure!(pod.seen(&[&pod.url(wanted)])? == served);
    // It is served: nothing is pending any more.
    node.pend(id, None, pod.cgroup.path())?;
    ensure!(pod.seen(&[&pod.url(wanted)])? == served);
    node.withdraw(id)?;
    ensure!(!is_refused(&pod, wanted)?);
    pod.attaches(&SHARED_HOOKS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_union_fails_open_where_all_do() -> Result<()> {
    let pod = Pod::new("pending-union")?;
    let port = pod.upstream(Scheme::Http).await?;
    let with = |id, failure_policy| {
        let mut granted = pod.connector(id, Scheme::Http, port, "token");
        let connector = std::sync::Arc::make_mut(&mut granted.connector);
        connector.failure_policy = failure_policy;
        granted
    };
    let open = |id| (PolicyId(id), vec![with(id, FailurePolicy::Open)]);
    let closed = (PolicyId(3), vec![with(3, FailurePolicy::Closed)]);
    let mut node = idle(&pod, BTreeMap::from([open(1), open(2)])).await?;
    node.pend(pod.cgroup.id(), None, pod.cgroup.path())?;
    ensure!(!is_refused(&pod, port)?);
    ensure!(node.stats()?.bypassed == 1);
    node.set_policies(BTreeMap::from([open(1), open(2), closed]), &Roots::none())?;
    ensure!(is_refused(&pod, port)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_pod_stays_so_when_agents_come_and_go() -> Result<()> {
    let pod = Pod::new("pending-pins")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = pod.connector(1, Scheme::Http, port, "token");
    let id = pod.cgroup.id();
    let mut first = idle(&pod, policy(std::slice::from_ref(&granted))).await?;
    first.pend(id, None, pod.cgroup.path())?;
    drop(first);
    ensure!(is_refused(&pod, port)?);

    // Everything that the next one knows, and nothing about this pod.
    let mut next = idle(&pod, policy(&[granted])).await?;
    next.resolve().await?;
    ensure!(is_refused(&pod, port)?);
    next.forget_strangers(|kept| kept == id)?;
    ensure!(is_refused(&pod, port)?);
    pod.attaches(&HOOKS).await?;
    next.forget_strangers(|_| false)?;
    ensure!(!is_refused(&pod, port)?);
    pod.attaches(&SHARED_HOOKS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_replaced_agent_serves_is_not_interrupted() -> Result<()> {
    let pod = Pod::new("pending-replace")?;
    let port = pod.upstream(Scheme::Http).await?;
    let granted = [pod.connector(1, Scheme::Http, port, "token")];
    let served = format!("{} Bearer token", pod.host);
    let mut incumbent = pod.agent(&granted).await?;
    let replaced = tokio::spawn(async move {
        let end = incumbent.keep_up().await;
        (incumbent, end)
    });
    let mut next = idle(&pod, policy(&granted)).await?;
    let (incumbent, end) = replaced.await?;
    ensure!(matches!(end, NodeError::Replaced), "{end}");
    let drained = tokio::spawn(incumbent.drain(limits::HAND_OVER));
    let pended = next.pend(pod.cgroup.id(), Some(GRANTED), pod.cgroup.path())?;
    ensure!(!pended, "it is to be tried again");
    ensure!(pod.seen(&[&pod.url(port)])? == served);
    pod.enrol(&mut next)?;
    drained.await?;
    ensure!(pod.seen(&[&pod.url(port)])? == served);
    Ok(())
}
