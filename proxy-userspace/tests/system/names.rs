//! A node whose Connector's host has another address after a while.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::{Arc, Mutex},
};

use anyhow::{Result, bail, ensure};
use hickory_proto::rr::RecordType;
use postern::{
    node::{Granted, Node},
    state::Scheme,
};

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
