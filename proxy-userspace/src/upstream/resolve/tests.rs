//! The resolver with name servers that say what a test wants.

mod waiting;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use testkit::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::*;

const HOST: &str = "registry.example.com";
/// What fits into an answer over UDP without EDNS.
const UDP_BYTES: usize = 512;

/// What a name server knows, and who asked.
#[derive(Default)]
struct Zone {
    records: HashMap<String, Vec<Record>>,
    /// What is said about names that are not there.
    code: Option<ResponseCode>,
    /// Never answers.
    silent: bool,
    /// Never answers for this type.
    silent_about: Option<RecordType>,
    /// Number, name and type of each query; one that is sent again is one.
    asked: BTreeSet<(u16, String, String)>,
    over_tcp: usize,
}

impl Zone {
    fn set(&mut self, host: &str, ttl: u32, data: Vec<RData>) {
        let owner = Name::from_ascii(format!("{host}.")).expect("a name");
        let records = data
            .into_iter()
            .map(|data| Record::from_rdata(owner.clone(), ttl, data));
        self.records.insert(format!("{host}."), records.collect());
    }

    /// The records of a name and of the names that it is an alias for.
    fn find(&self, name: &str, kind: RecordType) -> Vec<Record> {
        let mut found = Vec::new();
        for record in self.records.get(name).into_iter().flatten() {
            match &record.data {
                RData::CNAME(CNAME(target)) => {
                    found.push(record.clone());
                    found.extend(self.find(&target.to_string(), kind));
                }
                data if data.record_type() == kind => found.push(record.clone()),
                _ => {}
            }
        }
        found
    }

    fn answer(&mut self, bytes: &[u8], room: usize) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).expect("a query");
        let question = query.queries.first().expect("a question");
        let name = question.name().to_lowercase().to_string();
        let kind = question.query_type();
        let asked = (query.metadata.id, name.clone(), kind.to_string());
        self.asked.insert(asked);
        if self.silent || self.silent_about == Some(kind) {
            return None;
        }
        let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        reply.queries.clone_from(&query.queries);
        if !self.records.contains_key(&name) {
            reply.metadata.response_code = self.code.unwrap_or(ResponseCode::NXDomain);
        }
        for record in self.find(&name, kind) {
            reply.add_answer(record);
        }
        let bytes = reply.to_vec().expect("it encodes");
        if bytes.len() <= room {
            return Some(bytes);
        }
        reply.answers.clear();
        reply.metadata.truncation = true;
        Some(reply.to_vec().expect("it encodes"))
    }
}

type Shared = Arc<Mutex<Zone>>;

fn with<T>(zone: &Shared, act: impl FnOnce(&mut Zone) -> T) -> T {
    act(&mut zone.lock().expect("no panic before"))
}

/// How many queries there were.
fn asked(zone: &Shared) -> usize {
    with(zone, |zone| zone.asked.len())
}

/// Sockets of a name server on a free port, or on that port.
async fn bind(ip: [u8; 4], port: u16) -> (UdpSocket, TcpListener) {
    let address = SocketAddr::from((ip, port));
    for _ in 0..20 {
        let udp = UdpSocket::bind(address).await.expect("a free port");
        let same = udp.local_addr().expect("an address");
        // A port that is free for the one may be taken for the other.
        if let Ok(tcp) = TcpListener::bind(same).await {
            return (udp, tcp);
        }
    }
    panic!("no port of {address} is free for UDP and TCP");
}

/// A name server on a free port, or on that port.
async fn serve(ip: [u8; 4], port: u16) -> (Shared, u16) {
    let zone = Shared::default();
    let (udp, tcp) = bind(ip, port).await;
    let port = tcp.local_addr().expect("an address").port();
    let known = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let reply = with(&known, |zone| zone.answer(&buffer[..length], UDP_BYTES));
            if let Some(reply) = reply {
                udp.send_to(&reply, client).await.expect("it is sent");
            }
        }
    });
    let known = Arc::clone(&zone);
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(converse(Arc::clone(&known), stream));
        }
    });
    (zone, port)
}

async fn converse(zone: Shared, mut stream: TcpStream) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await.expect("a query");
        let reply = with(&zone, |zone| {
            zone.over_tcp += 1;
            zone.answer(&query, usize::from(u16::MAX))
        });
        let reply = reply.expect("an answer");
        let length = u16::try_from(reply.len()).expect("it fits");
        stream.write_u16(length).await.expect("it is sent");
        stream.write_all(&reply).await.expect("it is sent");
    }
}

/// A resolver with files of its own.
struct World {
    resolver: Arc<Resolver>,
    files: TempDir,
    zone: Shared,
    port: u16,
}

impl World {
    async fn new() -> Self {
        let (zone, port) = serve([127, 0, 0, 1], 0).await;
        let files = TempDir::new("resolver").expect("a folder");
        let resolver = Resolver::with_files(files.join("resolv.conf"), files.join("hosts"), port);
        let world = Self {
            resolver: Arc::new(resolver),
            files,
            zone,
            port,
        };
        world.write(
            "resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        );
        world
    }

    /// Replaces a file as a whole, as everybody does.
    fn write(&self, name: &str, text: &str) {
        let new = self.files.write("new", text).expect("it is written");
        fs::rename(new, self.files.join(name)).expect("it is there");
        self.resolver.files.look_again();
    }

    fn set(&self, ttl: u32, data: Vec<RData>) {
        with(&self.zone, |zone| zone.set(HOST, ttl, data));
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.resolver.resolve(host).await?.to_vec())
    }

    fn expire(&self, host: &str) {
        self.resolver.memory().expire(host, Instant::now());
    }
}

fn v4(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, last)))
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(
        Name::from_ascii(format!("{target}.")).expect("a name"),
    ))
}

#[tokio::test]
async fn an_answer_is_used_again_and_a_new_address_is_noticed() {
    let world = World::new().await;
    world.set(60, vec![v4(1)]);
    for _ in 0..3 {
        assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    }
    assert_eq!(asked(&world.zone), 2);

    world.set(60, vec![v4(2)]);
    world.expire(HOST);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(2)]));
    assert_eq!(asked(&world.zone), 4);
    let mut known = world.resolver.known(HOST);
    known.sort();
    assert_eq!(known, [ip(1), ip(2)]);
}

#[tokio::test]
async fn the_smallest_ttl_on_the_way_to_an_address_counts() {
    let world = World::new().await;
    let until = async |ttls: [u32; 2]| {
        with(&world.zone, |zone| {
            zone.set(HOST, ttls[0], vec![alias("cdn.example.net")]);
            zone.set("cdn.example.net", ttls[1], vec![v4(1)]);
        });
        let before = Instant::now();
        let until = world.resolver.refresh(HOST).await.expect("an answer");
        assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
        world.expire(HOST);
        (before, until, Instant::now())
    };
    for ttls in [[20, 200], [200, 20]] {
        let (before, until, after) = until(ttls).await;
        let ttl = Duration::from_secs(20);
        assert!(before + ttl <= until && until <= after + ttl, "{ttls:?}");
    }
    let (before, until, after) = until([0, 0]).await;
    assert!(before + limits::RESOLVE_AGAIN <= until && until <= after + limits::RESOLVE_AGAIN);
}

#[tokio::test]
async fn many_who_want_a_name_at_once_are_one_query() {
    let world = World::new().await;
    world.set(0, vec![v4(1)]);
    for _ in 0..3 {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let resolver = Arc::clone(&world.resolver);
            all.spawn(async move { resolver.resolve(HOST).await });
        }
        for answer in all.join_all().await {
            assert_eq!(*answer.expect("an answer"), [ip(1)]);
        }
    }
    assert_eq!(asked(&world.zone), 2);
}

#[tokio::test]
async fn those_who_wait_for_a_failure_share_it() {
    let world = World::new().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let resolver = Arc::clone(&world.resolver);
        all.spawn(async move { resolver.refresh(HOST).await });
    }
    for answer in all.join_all().await {
        assert_eq!(
            answer,
            Err(ResolveError::NoName(Ipv4Addr::LOCALHOST.into()))
        );
    }
    // Who dials does not ask again at once either.
    assert!(world.resolve(HOST).await.is_err());
    assert_eq!(asked(&world.zone), 2);
}

#[tokio::test]
async fn both_families_are_asked_for_and_one_will_do() {
    let world = World::new().await;
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = RData::AAAA(AAAA(six));
    for (data, expected) in [
        (vec![v6.clone(), v4(1)], vec![ip(1), six.into()]),
        (vec![v6], vec![six.into()]),
        (vec![v4(2)], vec![ip(2)]),
    ] {
        world.set(0, data);
        assert_eq!(world.resolve(HOST).await, Ok(expected));
        world.expire(HOST);
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_apart() {
    let world = World::new().await;
    let server = IpAddr::from(Ipv4Addr::LOCALHOST);
    assert_eq!(world.resolve(HOST).await, Err(ResolveError::NoName(server)));

    world.expire(HOST);
    world.set(60, Vec::new());
    assert_eq!(
        world.resolve(HOST).await,
        Err(ResolveError::NoAddress(server))
    );

    world.expire(HOST);
    with(&world.zone, |zone| {
        zone.records.clear();
        zone.code = Some(ResponseCode::ServFail);
    });
    let error = world.resolve(HOST).await.expect_err("no answer");
    assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1 failed"), "{error}");

    world.expire(HOST);
    with(&world.zone, |zone| zone.silent = true);
    let error = world.resolve(HOST).await.expect_err("no answer");
    assert_eq!(error, ResolveError::Silent("127.0.0.1".into()));

    let error = world.resolve("a..b").await.expect_err("no name");
    assert_eq!(error, ResolveError::NotAName);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_or_says_nothing() {
    let world = World::new().await;
    world.write(
        "resolv.conf",
        "nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    );
    let (first, _) = serve([127, 0, 0, 2], world.port).await;
    world.set(60, vec![v4(1)]);
    with(&first, |zone| zone.code = Some(ResponseCode::Refused));
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));

    with(&first, |zone| zone.silent = true);
    world.expire(HOST);
    world.set(60, vec![v4(2)]);
    // With time, as in the background.
    world.resolver.refresh(HOST).await.expect("an answer");
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(2)]));

    // One that knows better is not asked: the first one's no is a no.
    with(&first, |zone| {
        zone.silent = false;
        zone.code = None;
    });
    world.expire(HOST);
    let before = asked(&world.zone);
    let error = world.resolver.refresh(HOST).await.expect_err("a no");
    assert_eq!(error, ResolveError::NoName(IpAddr::from([127, 0, 0, 2])));
    assert_eq!(asked(&world.zone), before);
}

#[tokio::test]
async fn the_last_addresses_are_used_while_no_server_answers() {
    let world = World::new().await;
    world.set(60, vec![v4(1)]);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    with(&world.zone, |zone| zone.code = Some(ResponseCode::ServFail));
    with(&world.zone, |zone| zone.records.clear());
    world.expire(HOST);
    assert!(world.resolver.refresh(HOST).await.is_err());
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    assert_eq!(world.resolver.known(HOST), [ip(1)]);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp_and_cut_at_the_limit() {
    let world = World::new().await;
    world.set(60, (0..200).map(v4).collect());
    assert_eq!(world.resolve(HOST).await.map(|all| all.len()), Ok(200));
    assert!(with(&world.zone, |zone| zone.over_tcp) > 0);

    world.expire(HOST);
    let many = (0..1000_u32).map(|n| RData::A(A(Ipv4Addr::from_bits(0xc633_6400 + n))));
    world.set(60, many.collect());
    let found = world.resolve(HOST).await.map(|all| all.len());
    assert_eq!(found, Ok(limits::ADDRESSES_PER_NAME));
    assert_eq!(world.resolver.known(HOST).len(), limits::ADDRESSES_PER_NAME);
}

#[tokio::test]
async fn short_names_are_searched_for() {
    let world = World::new().await;
    world.write(
        "resolv.conf",
        "nameserver 127.0.0.1\nsearch team.svc.example.com svc.example.com example.com\n\
         options ndots:5 timeout:1\n",
    );
    world.set(60, vec![v4(1)]);
    assert_eq!(world.resolve("registry").await, Ok(vec![ip(1)]));
    assert_eq!(asked(&world.zone), 6);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    assert_eq!(asked(&world.zone), 14);
    // Nothing is searched for below the root.
    assert_eq!(
        world.resolve("registry.example.com.").await,
        Ok(vec![ip(1)])
    );
    assert_eq!(asked(&world.zone), 16);
}

#[tokio::test]
async fn files_that_change_are_read_again() {
    let world = World::new().await;
    world.set(60, vec![v4(1)]);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));
    let epoch = world.resolver.epoch();

    // Names that the machine itself knows come first, and hold for both families.
    world.write("hosts", "192.0.2.9 REGISTRY.example.com registry\n");
    assert_ne!(world.resolver.epoch(), epoch);
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(9)]));
    assert_eq!(asked(&world.zone), 2);
    fs::remove_file(world.files.join("hosts")).expect("it was there");
    world.resolver.files.look_again();

    let (other, _) = serve([127, 0, 0, 2], world.port).await;
    with(&other, |zone| zone.set(HOST, 60, vec![v4(2)]));
    world.write("resolv.conf", "nameserver 127.0.0.2\n");
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(2)]));

    // Written over in place.
    let path = world.files.join("resolv.conf");
    fs::write(path, "nameserver 127.0.0.1 # again\n").expect("it is written");
    world.resolver.files.look_again();
    assert_eq!(world.resolve(HOST).await, Ok(vec![ip(1)]));

    let epoch = world.resolver.epoch();
    world.write("resolv.conf", "# a comment more\nnameserver 127.0.0.1\n");
    assert_eq!(
        world.resolver.epoch(),
        epoch,
        "nothing that matters has changed"
    );
}

#[tokio::test]
async fn a_file_that_makes_no_sense_changes_nothing() {
    let world = World::new().await;
    world.write("resolv.conf", "nameserver 127.0.0.1\noptions ndots:3\n");
    let before = world.resolver.files.config();
    let too_large = "#".repeat(usize::try_from(limits::RESOLV_CONF_BYTES).expect("small") + 1);
    for text in ["<html>", "nameserver nowhere\n", too_large.as_str()] {
        world.write("resolv.conf", text);
        let now = world.resolver.files.config();
        assert_eq!(
            (now.servers, now.epoch),
            (before.servers.clone(), before.epoch)
        );
    }
    // One that is not there means the machine's own name server.
    fs::remove_file(world.files.join("resolv.conf")).expect("it was there");
    world.resolver.files.look_again();
    assert_eq!(
        *world.resolver.files.config().servers,
        config::NameServers::default()
    );
}

#[tokio::test]
async fn addresses_and_localhost_need_no_server() {
    let world = World::new().await;
    let six: IpAddr = "2001:db8::1".parse().expect("an address");
    assert_eq!(world.resolve("2001:db8::1").await, Ok(vec![six]));
    let here = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ];
    for name in ["localhost", "registry.localhost"] {
        assert_eq!(world.resolve(name).await, Ok(here.to_vec()));
    }
    assert!(world.resolve("postern.invalid").await.is_err());
    assert_eq!(asked(&world.zone), 0);
}
