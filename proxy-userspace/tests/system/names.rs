//! A node whose Connector's host has another address after a while.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Result, bail, ensure};
use hickory_proto::rr::RecordType;
use nix::net::if_::if_nametoindex;
use postern::{
    node::{Granted, Node},
    state::Scheme,
    upstream::Resolver,
};
use testkit::{TempDir, run_ok};

use crate::{
    hosts::with_name_server,
    kernel::name_server::{NameServer, address, reply},
    rig::{Pod, settled},
    support::{output, stdout},
};

const HOST: &str = "upstream.test";

/// A Connector whose host is [`HOST`].
fn connector(pod: &Pod, port: u16) -> Granted {
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
    connector.address.host = HOST.into();
    granted.connector = Arc::new(connector);
    granted
}

/// A name server that says at which address [`HOST`] is now, for a second.
fn serve(pod: &Pod, now: &Arc<Mutex<IpAddr>>) -> Result<()> {
    let socket = UdpSocket::bind((pod.host, 53))?;
    let now = Arc::clone(now);
    NameServer::serve(socket, pod.host, move |query| {
        let mut answers = Vec::new();
        if query.queries[0].query_type() == RecordType::A {
            let mut record = address(HOST, *now.lock().expect("no panic before"));
            record.ttl = 1;
            answers.push(record);
        }
        vec![reply(query, &answers)]
    });
    Ok(())
}

/// How many addresses the kernel redirects.
fn redirected(pod: &Pod) -> Result<usize> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pinned("DESTINATIONS"));
    let entries: serde_json::Value = serde_json::from_str(&stdout(&output(dump)?))?;
    Ok(entries.as_array().map_or(0, Vec::len))
}

/// Lets the node go on until that many addresses are redirected.
async fn until_redirected(pod: &Pod, node: &mut Node, addresses: usize) -> Result<()> {
    tokio::select! {
        error = node.keep_up() => bail!(error),
        done = settled(|| Ok(redirected(pod)? == addresses)) => done,
    }
}

#[test]
fn another_address_is_redirected_once_the_ttl_of_the_first_has_ended() -> Result<()> {
    let pod = Pod::new("names")?;
    with_name_server(pod.host, async || {
        let port = pod.upstream_at(pod.secondary, Scheme::Http).await?;
        // At first nobody is there.
        let first: IpAddr = "192.0.2.9".parse()?;
        let now = Arc::new(Mutex::new(first));
        serve(&pod, &now)?;
        let mut node = pod.agent(&[connector(&pod, port)]).await?;
        node.resolve().await?;
        ensure!(redirected(&pod)? == 1);

        *now.lock().expect("no panic before") = pod.secondary;
        until_redirected(&pod, &mut node, 2).await?;
        // Programs that were told the first address are served as well.
        for ip in [first, pod.secondary] {
            let url = format!("http://{}/", SocketAddr::new(ip, port));
            let host = format!("Host: {HOST}:{port}");
            let seen = pod.seen(&["--header", &host, &url])?;
            ensure!(seen == format!("{} Bearer token", pod.host), "{seen}");
        }
        Ok(())
    })
}

#[test]
fn a_link_local_name_server_is_asked_over_its_interface() -> Result<()> {
    let pod = Pod::new("link-local")?;
    let mut add = pod.sandbox.command("ip");
    add.args(["address", "add", "fe80::53/64", "dev", "eth0", "nodad"]);
    run_ok(add)?;
    let files = TempDir::new("resolver")?;
    let resolve = || {
        pod.sandbox.enter_network()?;
        let index = if_nametoindex("eth0")?;
        let any_port = SocketAddrV6::new("fe80::53".parse()?, 0, 0, index);
        let socket = UdpSocket::bind(any_port)?;
        let port = socket.local_addr()?.port();
        let expected: IpAddr = "192.0.2.9".parse()?;
        NameServer::serve(socket, "fe80::53".parse()?, move |query| {
            vec![reply(query, &[address(HOST, expected)])]
        });
        for zone in ["eth0".to_owned(), index.to_string()] {
            let servers = files.write("resolv.conf", format!("nameserver fe80::53%{zone}\n"))?;
            let resolver = Resolver::with_files(servers, files.join("hosts"), port);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let found = runtime.block_on(resolver.resolve(HOST))?;
            ensure!(*found == [expected], "{found:?}");
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(resolve).join()).expect("no panic")
}
