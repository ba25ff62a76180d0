//! Addresses that workloads learn from their own DNS answers, whoever wrote these.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use postern::{
    node::{Granted, Node},
    state::Scheme,
    tls::Roots,
};
use proxy_common::maps::LEARNED_PER_WORKLOAD;
use testkit::SiteAuth;

use crate::{
    hosts::with_hosts,
    rig::{HOOKS, Pod, SHARED_HOOKS, policy, settled},
    support::{TOKEN, api, counter, ok, output, stdout},
};

use super::name_server::{ASK, NameServer, address, alias, inside, query, reply};

/// A name that Postern resolves to the host's secondary address on the link of the test's pod.
const HOST: &str = "upstream.test";

/// Runs a test in which Postern resolves [`HOST`].
fn resolved(name: &str, test: impl AsyncFnOnce(&Pod) -> Result<()> + Send) -> Result<()> {
    let pod = Pod::new(name)?;
    with_hosts(&[(pod.secondary, HOST)], async || test(&pod).await)
}

/// A Connector whose host is [`HOST`].
fn connector(pod: &Pod, port: u16) -> Granted {
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
    connector.address.host = HOST.into();
    granted.connector = Arc::new(connector);
    granted
}

/// The Connector's server, at the address that Postern resolves.
async fn genuine(pod: &Pod) -> Result<u16> {
    pod.upstream_at(pod.secondary, Scheme::Http).await
}

/// What the pod gets from an address that it takes for the Connector's.
fn seen(pod: &Pod, ip: IpAddr, port: u16) -> Result<String> {
    let url = format!("http://{}/", SocketAddr::new(ip, port));
    pod.seen(&["--header", &format!("Host: {HOST}:{port}"), &url])
}

/// Whether the Connector's server served a client at that address, with the credential and
/// from the host: not encrypted.
fn served(pod: &Pod, client: &Pod, ip: IpAddr, port: u16) -> Result<()> {
    let seen = seen(client, ip, port)?;
    ensure!(seen == format!("{} Bearer token", pod.host), "{seen}");
    Ok(())
}

/// Entries of a pinned map.
fn entries(pod: &Pod, map: &str) -> Result<Vec<serde_json::Value>> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned(map));
    Ok(serde_json::from_str(&stdout(&output(dump)?))?)
}

#[test]
fn what_a_workload_was_told_is_redirected_and_a_lie_gets_no_credential() -> Result<()> {
    resolved("dns-lie", async |pod| {
        let port = genuine(pod).await?;
        let liar = TcpListener::bind((pod.host, port))?;
        liar.set_nonblocking(true)?;
        let node = pod.agent(&[connector(pod, port)]).await?;
        let server = NameServer::start(pod, vec![address(HOST, pod.host)])?;
        ensure!(entries(pod, "LEARNED")?.is_empty());

        server.asked(pod, HOST)?;
        // There before the workload has its answer.
        ensure!(entries(pod, "LEARNED")?.len() == 1);
        for _ in 0..3 {
            served(pod, pod, pod.host, port)?;
        }
        let nobody = liar
            .accept()
            .err()
            .context("the forged server was reached")?;
        ensure!(nobody.kind() == ErrorKind::WouldBlock, "{nobody}");
        let stats = node.stats()?;
        ensure!(
            (
                stats.learned,
                stats.dns_answers,
                stats.dns_ignored,
                stats.learned_full
            ) == (1, 1, 0, 0)
                && stats.redirected == 3,
            "{stats}"
        );
        Ok(())
    })
}

/// It has the name server and the server that this one names, in its own network.
#[test]
fn who_lies_to_itself_gets_no_credential() -> Result<()> {
    resolved("dns-own-lie", async |pod| {
        let port = genuine(pod).await?;
        let node = pod.agent(&[connector(pod, port)]).await?;
        let thief = thread::scope(|scope| {
            let listen = || {
                pod.sandbox.enter_network()?;
                Ok::<_, anyhow::Error>(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?)
            };
            scope.spawn(listen).join().expect("no panic")
        })?;
        thief.set_nonblocking(true)?;
        let socket = inside(&pod.sandbox, "127.0.0.1")?;
        let mine = [
            pod.address,
            "127.0.0.2".parse()?,
            // Of the listeners themselves.
            "127.0.0.1".parse()?,
            "::1".parse()?,
        ];
        let answers: Vec<_> = mine.iter().map(|ip| address(HOST, *ip)).collect();
        let server = NameServer::serve(socket, "127.0.0.1".parse()?, move |query| {
            vec![reply(query, &answers)]
        });
        server.asked(pod, HOST)?;
        for ip in mine {
            served(pod, pod, ip, port).with_context(|| ip.to_string())?;
        }
        let nobody = thief.accept().err().context("the thief was reached")?;
        ensure!(nobody.kind() == ErrorKind::WouldBlock, "{nobody}");
        let stats = node.stats()?;
        ensure!(stats.learned == 4 && stats.redirected == 4, "{stats}");
        Ok(())
    })
}

#[test]
fn aliases_are_followed_and_ipv6_is_learned_over_ipv6() -> Result<()> {
    resolved("dns-alias", async |pod| {
        let port = genuine(pod).await?;
        let _node = pod.agent(&[connector(pod, port)]).await?;
        // Addresses without a route: only a redirected connection gets anywhere.
        let (v4, v6) = ("192.0.2.9".parse()?, "2001:db8::9".parse()?);
        let answers = vec![
            alias(HOST, "a.example.net"),
            alias("a.example.net", "b.example.net"),
            address("b.example.net", v4),
            address("b.example.net", v6),
        ];
        let socket = inside(&pod.sandbox, "::1")?;
        let server = NameServer::serve(socket, Ipv6Addr::LOCALHOST.into(), move |query| {
            vec![reply(query, &answers)]
        });
        server.asked(pod, "Upstream.Test")?;
        ensure!(entries(pod, "LEARNED")?.len() == 2);
        served(pod, pod, v4, port)?;
        served(pod, pod, v6, port)?;
        Ok(())
    })
}

#[test]
fn other_names_and_broken_answers_teach_nothing() -> Result<()> {
    resolved("dns-noise", async |pod| {
        const ANSWERS: usize = 19;
        let port = genuine(pod).await?;
        let node = pod.agent(&[connector(pod, port)]).await?;
        let host = pod.host;
        let socket = UdpSocket::bind((host, 53))?;
        let server = NameServer::serve(socket, host, move |query| {
            let good = reply(query, &[address(HOST, host)]);
            // A query, an error, two questions, no answer, a loop of pointers, a label too long,
            // and one cut before its address.
            let mut bad: Vec<Vec<u8>> = Vec::new();
            for (at, byte) in [(2, 0x01), (3, 0x83), (5, 2), (7, 0), (12, 0xc0), (12, 0x40)] {
                let mut message = good.clone();
                message[at] = byte;
                bad.push(message);
            }
            bad.push(good[..good.len() - 1].to_vec());
            bad.extend((1..12).map(|length| good[..length].to_vec()));
            bad.push(reply(query, &[address("other.example.com", host)]));
            bad
        });
        server.asked_for(ANSWERS, pod, HOST)?;
        server.asked_for(ANSWERS, pod, "other.example.com")?;
        let stats = node.stats()?;
        ensure!(
            stats.dns_answers == 2 * u64::try_from(ANSWERS)? && stats.learned == 0,
            "{stats}"
        );
        ensure!(entries(pod, "LEARNED")?.is_empty());
        Ok(())
    })
}

#[test]
fn a_flood_uses_up_the_share_of_its_workload_alone() -> Result<()> {
    resolved("dns-flood", async |pod| {
        let other = Pod::new("dns-calm")?;
        let port = genuine(pod).await?;
        let mut node = pod.agent(&[connector(pod, port)]).await?;
        other.enrol(&mut node)?;
        node.attach(other.cgroup.directory())?;
        let calm = NameServer::start(&other, vec![address(HOST, "198.51.100.1".parse()?)])?;
        calm.asked(&other, HOST)?;
        let flood = NameServer::flood(pod, HOST)?;
        for _ in 0..20 {
            flood.asked(pod, HOST)?;
        }
        let stats = node.stats()?;
        let share = u64::try_from(LEARNED_PER_WORKLOAD)?;
        ensure!(
            stats.learned == share + 1 && stats.learned_full > 0,
            "{stats}"
        );
        ensure!(entries(pod, "LEARNED")?.len() == LEARNED_PER_WORKLOAD + 1);
        // The other one learns on, and has what it learned.
        calm.asked(&other, HOST)?;
        served(pod, &other, "198.51.100.1".parse()?, port)?;

        // The agent makes room, the oldest first.
        node.resolve().await?;
        let room = async {
            settled(|| Ok(entries(pod, "LEARNED")?.len() == LEARNED_PER_WORKLOAD / 2 + 1)).await
        };
        tokio::select! {
            room = room => room?,
            error = node.keep_up() => return Err(error.into()),
        }
        flood.asked(pod, HOST)?;
        ensure!(node.stats()?.learned > share + 1);
        served(pod, &other, "198.51.100.1".parse()?, port)?;
        Ok(())
    })
}

#[test]
fn a_grant_that_changes_holds_for_what_was_learned() -> Result<()> {
    resolved("dns-grant", async |pod| {
        let port = genuine(pod).await?;
        // In the open, at the address that the workload is told.
        let direct = pod.upstream(Scheme::Http).await?;
        let mut node = pod.agent(&[connector(pod, port)]).await?;
        let server = NameServer::start(pod, vec![address(HOST, pod.host)])?;
        server.asked(pod, HOST)?;
        served(pod, pod, pod.host, port)?;
        // Another port of the same host is nobody's, until a Connector wants it.
        let untouched = format!("{} nothing", pod.address);
        ensure!(seen(pod, pod.host, direct)? == untouched);
        node.set_policies(policy(&[connector(pod, direct)]), &Roots::none())?;
        node.resolve().await?;
        let redirected = node.stats()?.redirected;
        // To the proxy: at the Connector's own address nobody listens on that port.
        let refused = pod.curl(&[
            "--header",
            &format!("Host: {HOST}:{direct}"),
            &pod.url(direct),
        ])?;
        let wanted = SocketAddr::new(pod.secondary, direct).to_string();
        ensure!(stdout(&refused).contains(&wanted), "{refused:?}");
        ensure!(node.stats()?.redirected == redirected + 1);
        node.set_policies(BTreeMap::new(), &Roots::none())?;
        ensure!(entries(pod, "HOSTNAMES")?.is_empty());
        ensure!(seen(pod, pod.host, direct)? == untouched);
        Ok(())
    })
}

#[test]
fn what_was_learned_survives_a_new_agent_and_goes_with_its_workload() -> Result<()> {
    resolved("dns-pins", async |pod| {
        let port = genuine(pod).await?;
        let granted = [connector(pod, port)];
        let ip = "192.0.2.9".parse()?;
        let first = pod.agent(&granted).await?;
        let server = NameServer::start(pod, vec![address(HOST, ip)])?;
        server.asked(pod, HOST)?;
        drop(first);
        pod.attaches(&HOOKS).await?;
        let mut next = pod.agent(&granted).await?;
        pod.attaches(&HOOKS).await?;
        served(pod, pod, ip, port)?;

        next.withdraw(pod.cgroup.id())?;
        for map in ["WORKLOADS", "BUDGETS"] {
            ensure!(entries(pod, map)?.is_empty(), "{map}");
        }
        settled(|| Ok(entries(pod, "LEARNED")?.is_empty())).await?;
        pod.attaches(&SHARED_HOOKS).await?;
        server.asked(pod, HOST)?;
        ensure!(entries(pod, "LEARNED")?.is_empty());
        // An agent that does not know the workload forgets it as well.
        pod.enrol(&mut next)?;
        server.asked(pod, HOST)?;
        ensure!(entries(pod, "LEARNED")?.len() == 1);
        drop(next);
        let mut last = pod.take_over().await?;
        last.forget_strangers(|_| false)?;
        ensure!(entries(pod, "BUDGETS")?.is_empty());
        settled(|| Ok(entries(pod, "LEARNED")?.is_empty())).await?;
        pod.attaches(&[]).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pins_nothing_stays_attached() -> Result<()> {
    let pod = Pod::new("dns-run")?;
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, &[])?;
    pod.attaches(&HOOKS).await?;
    node.withdraw(pod.cgroup.id())?;
    pod.attaches(&SHARED_HOOKS).await?;
    pod.enrol(&mut node)?;
    pod.attaches(&HOOKS).await?;
    drop(node);
    pod.attaches(&[]).await
}

#[test]
fn a_command_of_a_run_learns_as_well() -> Result<()> {
    let (world, nginx, manifest) = api(SiteAuth::Bearer(TOKEN.into()))?;
    // An address that leads nowhere.
    let ip: IpAddr = "198.51.100.7".parse()?;
    let socket = inside(&world.sandbox, "127.0.0.1")?;
    let server = NameServer::serve(socket, "127.0.0.1".parse()?, move |query| {
        vec![reply(query, &[address("api.test", ip)])]
    });
    let script =
        format!("{{ {ASK}; }} && exec curl --silent --fail --resolve \"$4\" https://api.test/");
    let run = world.run_with(
        &manifest,
        &["--stats"],
        &[
            "bash",
            "-c",
            &script,
            "bash",
            &server.address.to_string(),
            &query("api.test")?,
            "1",
            &format!("api.test:443:{ip}"),
        ],
    );
    let run = ok(run)?;
    ensure!(stdout(&run).ends_with("{}"), "{run:?}");
    ensure!(
        counter(&run, "learned")? == 1 && counter(&run, "redirected")? == 1,
        "{run:?}"
    );
    let token = format!("Bearer {TOKEN}");
    let requests = nginx.requests_after(1)?;
    ensure!(
        requests
            .iter()
            .all(|request| request.authorization.as_deref() == Some(token.as_str())),
        "{requests:?}"
    );
    Ok(())
}
