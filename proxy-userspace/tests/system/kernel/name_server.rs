//! Name servers of the tests, which answer whatever a test wants.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use testkit::Sandbox;

use crate::{
    rig::Pod,
    support::{output, stdout},
};

/// Asks for a name, given as the bytes of the query, and waits for that many answers.
pub(crate) const ASK: &str = "exec 3<>\"/dev/udp/$1/53\" || exit 98; printf \"$2\" >&3; \
    timeout 20 dd bs=4096 count=\"$3\" status=none <&3 | wc -c";

/// A name server over UDP that sends its answers as they are.
pub(crate) struct NameServer {
    pub(crate) address: IpAddr,
}

impl NameServer {
    /// Gives every query the same answers, on the host's end of the pod's link.
    pub(crate) fn start(pod: &Pod, answers: Vec<Record>) -> Result<Self> {
        let socket = UdpSocket::bind((pod.host, 53))?;
        Ok(Self::serve(socket, pod.host, move |query| {
            vec![reply(query, &answers)]
        }))
    }

    /// Makes up other addresses of `host` for each query, at the same place.
    pub(crate) fn flood(pod: &Pod, host: &'static str) -> Result<Self> {
        let next = AtomicU32::new(0);
        let socket = UdpSocket::bind((pod.host, 53))?;
        Ok(Self::serve(socket, pod.host, move |query| {
            let answers: Vec<_> = (0..20)
                .map(|_| {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let ip = Ipv4Addr::from_bits(0xc612_0000 + n);
                    address(host, ip.into())
                })
                .collect();
            vec![reply(query, &answers)]
        }))
    }

    /// On a socket of that address; `answer` makes the messages that a query gets.
    pub(crate) fn serve(
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
    pub(crate) fn asked(&self, pod: &Pod, host: &str) -> Result<()> {
        self.asked_for(1, pod, host)
    }

    /// The same with that many answers.
    pub(crate) fn asked_for(&self, answers: usize, pod: &Pod, host: &str) -> Result<()> {
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

/// A query for the addresses of a host.
pub(crate) fn question(host: &str) -> Result<Message> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{host}."))?;
    query.add_query(Query::query(name, RecordType::A));
    Ok(query)
}

/// The same as `printf` takes it.
pub(crate) fn query(host: &str) -> Result<String> {
    let mut escaped = String::new();
    for byte in question(host)?.to_vec()? {
        write!(escaped, "\\x{byte:02x}")?;
    }
    Ok(escaped)
}

/// The message that answers a query with these records.
pub(crate) fn reply(query: &Message, answers: &[Record]) -> Vec<u8> {
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

/// An A or AAAA record.
pub(crate) fn address(owner: &str, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    record(owner, data)
}

/// A CNAME record.
pub(crate) fn alias(owner: &str, target: &str) -> Record {
    let target = Name::from_ascii(format!("{target}.")).expect("a name");
    record(owner, RData::CNAME(CNAME(target)))
}

/// A socket of a name server in another network.
pub(crate) fn inside(sandbox: &Sandbox, ip: &str) -> Result<UdpSocket> {
    let address = SocketAddr::new(ip.parse()?, 53);
    thread::scope(|scope| {
        let bind = || {
            sandbox.enter_network()?;
            Ok(UdpSocket::bind(address)?)
        };
        scope.spawn(bind).join().expect("no panic")
    })
}
