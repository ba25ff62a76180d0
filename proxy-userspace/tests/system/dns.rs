//! Addresses that workloads learn from their own DNS answers, whoever wrote these.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, CNAME},
    },
};
use postern::{
    node::{Granted, Node},
    state::Scheme,
    tls::Roots,
};
use proxy_common::maps::LEARNED_PER_WORKLOAD;
use testkit::{Sandbox, SiteAuth};

use crate::{
    rig::{HOOKS, Pod, policy, settled},
    support::{TOKEN, api, counter, ok, output, stdout},
};

/// A name that Postern resolves on every machine, and never to the address of the link.
const HOST: &str = "localhost";

/// Asks for a name, given as the bytes of the query, and waits for that many answers.
const ASK: &str = "exec 3<>\"/dev/udp/$1/53\" || exit 98; printf \"$2\" >&3; \
    timeout 20 dd bs=4096 count=\"$3\" status=none <&3 | wc -c";

/// A name server that gives every query the same answers, as they are.
struct NameServer {
    address: IpAddr,
}

impl NameServer {
    /// On the host's end of the pod's link.
    fn start(pod: &Pod, answers: Vec<Record>) -> Result<Self> {
        let socket = UdpSocket::bind((pod.host, 53))?;
        Ok(Self::serve(socket, pod.host, move |query| {
            vec![reply(query, &answers)]
        }))
    }

    fn serve(
        socket: UdpSocket,
        address: IpAddr,
        answer: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).expect("a query");
                for bytes in answer(&query) {
                    socket.send_to(&bytes, client).expect("it is sent");
                }
            }
        });
        Self { address }
    }

    /// Has the pod ask for a name; returns once it has an answer.
    fn asked(&self, pod: &Pod, host: &str) -> Result<()> {
        self.asked_for(1, pod, host)
    }

    fn asked_for(&self, answers: usize, pod: &Pod, host: &str) -> Result<()> {
        let arguments = [
            &self.address.to_string(),
            &query(host)?,
            &answers.to_string(),
        ];
        let asked = output(pod.command(ASK, &arguments.map(String::as_str)))?;
        ensure!(asked.status.success(), "{asked:?}");
        ensure!(stdout(&asked).trim().parse::<usize>()? > 0, "{asked:?}");
        Ok(())
    }
}

/// A query as `printf` takes it.
fn query(host: &str) -> Result<String> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(hickory_proto::op::Query::query(
        Name::from_ascii(format!("{host}."))?,
        hickory_proto::rr::RecordType::A,
    ));
    let mut escaped = String::new();
    for byte in query.to_vec()? {
        write!(escaped, "\\x{byte:02x}")?;
    }
    Ok(escaped)
}

fn reply(query: &Message, answers: &[Record]) -> Vec<u8> {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.queries.clone_from(&query.queries);
    for answer in answers {
        reply.add_answer(answer.clone());
    }
    reply.to_vec().expect("it encodes")
}

fn record(owner: &str, data: RData) -> Record {
    let owner = Name::from_ascii(format!("{owner}.")).expect("a name");
    Record::from_rdata(owner, 60, data)
}

fn address(owner: &str, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    record(owner, data)
}

fn alias(owner: &str, target: &str) -> Record {
    let target = Name::from_ascii(format!("{target}.")).expect("a name");
    record(owner, RData::CNAME(CNAME(target)))
}

/// A Connector whose host Postern resolves to the machine's loopback.
fn connector(pod: &Pod, port: u16) -> Granted {
    let mut granted = pod.connector(1, Scheme::Http, port, "token");
    let mut connector = Arc::try_unwrap(granted.connector).expect("nobody else has it");
    connector.address.host = HOST.into();
    granted.connector = Arc::new(connector);
    granted
}

/// The Connector's server, on the loopback of the machine.
async fn genuine(pod: &Pod) -> Result<u16> {
    pod.upstream_at("127.0.0.1".parse()?, Scheme::Http).await
}

/// What the pod gets from an address that it takes for the Connector's.
fn seen(pod: &Pod, ip: IpAddr, port: u16) -> Result<String> {
    let url = format!("http://{}/", SocketAddr::new(ip, port));
    pod.seen(&["--header", &format!("Host: {HOST}:{port}"), &url])
}

/// With the credential, and from the host: not encrypted.
const SERVED: &str = "127.0.0.1 Bearer token";

/// Entries of a pinned map.
fn entries(pod: &Pod, map: &str) -> Result<Vec<serde_json::Value>> {
    let mut dump = Command::new("bpftool");
    dump.args(["--json", "map", "dump", "pinned"])
        .arg(pod.pins().join("abi1").join(map));
    Ok(serde_json::from_str(&stdout(&output(dump)?))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_workload_was_told_is_redirected_and_a_lie_gets_no_credential() -> Result<()> {
    let pod = Pod::new("dns-lie")?;
    let port = genuine(&pod).await?;
    let liar = TcpListener::bind((pod.host, port))?;
    liar.set_nonblocking(true)?;
    let node = pod.agent(&[connector(&pod, port)]).await?;
    let server = NameServer::start(&pod, vec![address(HOST, pod.host)])?;
    ensure!(entries(&pod, "LEARNED")?.is_empty());

    server.asked(&pod, HOST)?;
    // There before the workload has its answer.
    ensure!(entries(&pod, "LEARNED")?.len() == 1);
    for _ in 0..3 {
        ensure!(seen(&pod, pod.host, port)? == SERVED);
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aliases_are_followed_and_ipv6_is_learned_over_ipv6() -> Result<()> {
    let pod = Pod::new("dns-alias")?;
    let port = genuine(&pod).await?;
    let _node = pod.agent(&[connector(&pod, port)]).await?;
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
    server.asked(&pod, "LocalHost")?;
    ensure!(entries(&pod, "LEARNED")?.len() == 2);
    ensure!(seen(&pod, v4, port)? == SERVED);
    ensure!(seen(&pod, v6, port)? == SERVED);
    Ok(())
}

/// A socket of a name server in another network.
fn inside(sandbox: &Sandbox, ip: &str) -> Result<UdpSocket> {
    let address = SocketAddr::new(ip.parse()?, 53);
    thread::scope(|scope| {
        let bind = || {
            sandbox.enter_network()?;
            Ok(UdpSocket::bind(address)?)
        };
        scope.spawn(bind).join().expect("no panic")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_and_broken_answers_teach_nothing() -> Result<()> {
    const ANSWERS: usize = 19;
    let pod = Pod::new("dns-noise")?;
    let port = genuine(&pod).await?;
    let node = pod.agent(&[connector(&pod, port)]).await?;
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
    server.asked_for(ANSWERS, &pod, HOST)?;
    server.asked_for(ANSWERS, &pod, "other.example.com")?;
    let stats = node.stats()?;
    ensure!(
        stats.dns_answers == 2 * u64::try_from(ANSWERS)? && stats.learned == 0,
        "{stats}"
    );
    ensure!(entries(&pod, "LEARNED")?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_uses_up_the_share_of_its_workload_alone() -> Result<()> {
    let (pod, other) = (Pod::new("dns-flood")?, Pod::new("dns-calm")?);
    let port = genuine(&pod).await?;
    let mut node = pod.agent(&[connector(&pod, port)]).await?;
    other.enrol(&mut node)?;
    node.attach(other.cgroup.directory())?;
    let flood = || NameServer::flood(&pod);
    let calm = NameServer::start(&other, vec![address(HOST, "198.51.100.1".parse()?)])?;
    calm.asked(&other, HOST)?;
    let flood = flood()?;
    for _ in 0..20 {
        flood.asked(&pod, HOST)?;
    }
    let stats = node.stats()?;
    let share = u64::try_from(LEARNED_PER_WORKLOAD)?;
    ensure!(
        stats.learned == share + 1 && stats.learned_full > 0,
        "{stats}"
    );
    ensure!(entries(&pod, "LEARNED")?.len() == LEARNED_PER_WORKLOAD + 1);
    // The other one learns on, and has what it learned.
    calm.asked(&other, HOST)?;
    ensure!(seen(&other, "198.51.100.1".parse()?, port)? == SERVED);

    // The agent makes room, the oldest first.
    node.resolve().await?;
    let room = async {
        settled(|| Ok(entries(&pod, "LEARNED")?.len() == LEARNED_PER_WORKLOAD / 2 + 1)).await
    };
    tokio::select! {
        room = room => room?,
        error = node.keep_up() => return Err(error.into()),
    }
    flood.asked(&pod, HOST)?;
    ensure!(node.stats()?.learned > share + 1);
    ensure!(seen(&other, "198.51.100.1".parse()?, port)? == SERVED);
    Ok(())
}

impl NameServer {
    /// Makes up other addresses for each query.
    fn flood(pod: &Pod) -> Result<Self> {
        let next = std::sync::atomic::AtomicU32::new(0);
        let socket = UdpSocket::bind((pod.host, 53))?;
        Ok(Self::serve(socket, pod.host, move |query| {
            let answers: Vec<_> = (0..20)
                .map(|_| {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let ip = std::net::Ipv4Addr::from_bits(0xc612_0000 + n);
                    address(HOST, ip.into())
                })
                .collect();
            vec![reply(query, &answers)]
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_changes_holds_for_what_was_learned() -> Result<()> {
    let pod = Pod::new("dns-grant")?;
    let port = genuine(&pod).await?;
    // In the open, at the address that the workload is told.
    let direct = pod.upstream(Scheme::Http).await?;
    let mut node = pod.agent(&[connector(&pod, port)]).await?;
    let server = NameServer::start(&pod, vec![address(HOST, pod.host)])?;
    server.asked(&pod, HOST)?;
    ensure!(seen(&pod, pod.host, port)? == SERVED);
    // Another port of the same host is nobody's, until a Connector wants it.
    let untouched = format!("{} nothing", pod.address);
    ensure!(seen(&pod, pod.host, direct)? == untouched);
    node.set_policies(policy(&[connector(&pod, direct)]), &Roots::none())?;
    node.resolve().await?;
    let redirected = node.stats()?.redirected;
    // To the proxy: at the Connector's own address nobody listens on that port.
    let refused = pod.curl(&[
        "--header",
        &format!("Host: {HOST}:{direct}"),
        &pod.url(direct),
    ])?;
    ensure!(stdout(&refused) != untouched, "{refused:?}");
    ensure!(node.stats()?.redirected == redirected + 1);
    node.set_policies(BTreeMap::new(), &Roots::none())?;
    ensure!(entries(&pod, "HOSTNAMES")?.is_empty());
    ensure!(seen(&pod, pod.host, direct)? == untouched);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_survives_a_new_agent_and_goes_with_its_workload() -> Result<()> {
    let pod = Pod::new("dns-pins")?;
    let port = genuine(&pod).await?;
    let granted = [connector(&pod, port)];
    let ip = "192.0.2.9".parse()?;
    let first = pod.agent(&granted).await?;
    let server = NameServer::start(&pod, vec![address(HOST, ip)])?;
    server.asked(&pod, HOST)?;
    drop(first);
    pod.attaches(&HOOKS).await?;
    let mut next = pod.agent(&granted).await?;
    pod.attaches(&HOOKS).await?;
    ensure!(seen(&pod, ip, port)? == SERVED);

    next.withdraw(pod.cgroup.id())?;
    for map in ["WORKLOADS", "BUDGETS", "LEARNED"] {
        ensure!(entries(&pod, map)?.is_empty(), "{map}");
    }
    let others: Vec<_> = HOOKS
        .into_iter()
        .filter(|hook| *hook != "dns_ingress")
        .collect();
    pod.attaches(&others).await?;
    server.asked(&pod, HOST)?;
    ensure!(entries(&pod, "LEARNED")?.is_empty());
    // An agent that does not know the workload forgets it as well.
    pod.enrol(&mut next)?;
    server.asked(&pod, HOST)?;
    ensure!(entries(&pod, "LEARNED")?.len() == 1);
    drop(next);
    let mut last = Node::take_over(pod.proxy()?, pod.cgroup.levels(), pod.pins()).await?;
    last.forget_strangers(|_| false)?;
    ensure!(entries(&pod, "LEARNED")?.is_empty() && entries(&pod, "BUDGETS")?.is_empty());
    pod.attaches(&[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pins_nothing_stays_attached() -> Result<()> {
    let pod = Pod::new("dns-run")?;
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, &[])?;
    pod.attaches(&HOOKS).await?;
    node.withdraw(pod.cgroup.id())?;
    let others: Vec<_> = HOOKS
        .into_iter()
        .filter(|hook| *hook != "dns_ingress")
        .collect();
    pod.attaches(&others).await?;
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
