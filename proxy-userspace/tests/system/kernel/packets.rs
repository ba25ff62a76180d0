//! Packets of every kind against `dns_ingress`, as far as the kernel hands them to a socket of
//! the workload: none is dropped, and what is learned is what the message says.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use postern::datapath::map_address;
use proxy_common::{
    dns,
    maps::{Destination, HostnameKey, Learned, LearnedKey, MAX_LEARNED, WHOLE_HOST},
};

use super::{
    name_server::{address, question, reply},
    probe::Probe,
    rig::{CONNECTOR, POLICY, Rig, eventually},
};

pub(super) const HOST: &str = "registry.example.com";
/// Where the workload listens.
pub(super) const PORT: u16 = 5300;
const DNS: u16 = 53;
/// Numbers of protocols and extension headers (IANA).
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What packets bring about, all in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) arrived: u64,
    pub(super) answers: u64,
    pub(super) unasked: u64,
    ignored: u64,
    pub(super) learned: u64,
}

/// A packet, and what it brings about: whether it arrives, and the three counters.
type Case = (&'static str, Vec<u8>, [u64; 4]);

/// A workload that learns, and somebody in its network who sends.
pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) workload: Probe,
    pub(super) sender: Probe,
    pub(super) expected: Counts,
    arrived: u64,
}

impl World {
    pub(super) fn new(name: &str) -> Result<Self> {
        let mut rig = Rig::new(name)?;
        let name = dns::hash(HOST).context("no name")?;
        let value = Destination {
            connector: CONNECTOR,
            flags: 0,
        };
        let entries = [WHOLE_HOST, 80].map(|port| {
            let key = HostnameKey {
                name,
                policy: POLICY,
                port,
                pad: 0,
            };
            (key, value)
        });
        rig.datapath.set_hostnames(&entries)?;
        rig.datapath.learn(rig.cgroup.id(), rig.cgroup.path())?;
        Ok(Self {
            workload: Probe::start(&rig.sandbox, Some(rig.cgroup.path()))?,
            sender: Probe::start(&rig.sandbox, None)?,
            rig,
            expected: Counts::default(),
            arrived: 0,
        })
    }

    /// A socket that waits for answers, and has asked the server there.
    fn listen(&mut self, here: IpAddr) -> Result<()> {
        let family = if here.is_ipv4() { "v4" } else { "v6" };
        let bind = format!("bind d {}", SocketAddr::new(here, PORT));
        let ask = format!("sendto d {} query", SocketAddr::new(here, DNS));
        self.workload
            .play(&[&format!("socket d {family} dgram"), &bind, &ask])
    }

    pub(super) fn learned(&self) -> Result<BTreeSet<[u8; 16]>> {
        let learned: HashMap<MapData, LearnedKey, Learned> = self.rig.map("LEARNED")?.try_into()?;
        let keys = learned.keys().collect::<Result<Vec<_>, _>>()?;
        Ok(keys.into_iter().map(|key| key.addr).collect())
    }

    /// Sends packets one by one and waits for what each brings about.
    fn send(&mut self, to: IpAddr, cases: &[Case]) -> Result<()> {
        for (what, packet, [arrived, answers, ignored, learned]) in cases {
            self.expected.arrived += arrived;
            self.expected.answers += answers;
            self.expected.ignored += ignored;
            self.expected.learned += learned;
            let to = SocketAddr::new(to, 0);
            let step = format!("packet p {to} {}", hex(packet)?);
            self.sender.play(&[&step]).context(*what)?;
            self.settles().context(*what)?;
        }
        Ok(())
    }

    /// Waits until everything that is expected happened, and nothing else.
    pub(super) fn settles(&mut self) -> Result<()> {
        let mut found = Counts::default();
        let settled = eventually(|| {
            self.arrived += self.workload.ask("drain d")?.parse::<u64>()?;
            let stats = self.rig.stats()?;
            found = Counts {
                arrived: self.arrived,
                answers: stats.dns_answers,
                unasked: stats.dns_unasked,
                ignored: stats.dns_ignored,
                learned: stats.learned,
            };
            Ok(found == self.expected)
        })?;
        ensure!(settled, "{found:?} instead of {:?}", self.expected);
        Ok(())
    }
}

pub(super) fn hex(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

/// An answer about [`HOST`] with one address, which is another one each time.
pub(super) fn answer(n: u32) -> Result<Vec<u8>> {
    let ip = Ipv4Addr::from_bits(0xc612_0000 + n);
    Ok(reply(&question(HOST)?, &[address(HOST, ip.into())]))
}

/// RFC 768. The length is that of the header and the payload unless it lies; there is no
/// checksum.
fn udp(source: u16, length: Option<usize>, payload: &[u8]) -> Vec<u8> {
    let length = length.unwrap_or(8 + payload.len());
    let length = u16::try_from(length).expect("a length");
    let mut packet = Vec::new();
    for field in [source, PORT, length, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

/// RFC 791, on loopback. The kernel fills in checksum and total length.
fn ipv4(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("few options");
    let mut packet = vec![0x40 | words, 0, 0, 0, 0x12, 0x34];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// RFC 8200, on loopback, with extension headers in front of UDP.
fn ipv6(first: u8, extensions: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions.len() + payload.len()).expect("a length");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([first, 64]);
    for _ in 0..2 {
        packet.extend(Ipv6Addr::LOCALHOST.octets());
    }
    packet.extend(extensions);
    packet.extend(payload);
    packet
}

/// With the checksum, without which IPv6 has no UDP (RFC 8200, section 8.1).
fn udp_over_ipv6(source: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp(source, None, payload);
    let length = u16::try_from(packet.len()).expect("a length");
    // The two addresses of loopback are 1 each.
    let mut sum = 2 + u32::from(length) + u32::from(UDP);
    for pair in packet.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = !u16::try_from(sum).expect("folded");
    packet[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn ipv4_and_udp_of_every_kind() -> Result<()> {
    let mut world = World::new("packets-v4")?;
    world.sender.play(&["socket p v4 raw packets"])?;
    world.listen(Ipv4Addr::LOCALHOST.into())?;
    let nops = |count| vec![1; count];
    let whole = udp(DNS, None, &answer(6)?);
    let (first, rest) = whole.split_at(24);
    let mut long = answer(9)?;
    long.resize(60_000, 0);
    let cases: Vec<Case> = vec![
        (
            "plain",
            ipv4(UDP, 0, &[], &udp(DNS, None, &answer(1)?)),
            [1, 1, 0, 1],
        ),
        (
            "the same again",
            ipv4(UDP, 0, &[], &udp(DNS, None, &answer(1)?)),
            [1, 1, 0, 0],
        ),
        (
            "with an option",
            ipv4(UDP, 0, &nops(4), &udp(DNS, None, &answer(2)?)),
            [1, 1, 0, 1],
        ),
        (
            "with all options",
            ipv4(UDP, 0, &nops(40), &udp(DNS, None, &answer(3)?)),
            [1, 1, 0, 1],
        ),
        (
            "from another port",
            ipv4(UDP, 0, &[], &udp(54, None, &answer(4)?)),
            [1, 0, 0, 0],
        ),
        (
            "of another protocol",
            ipv4(TCP, 0, &[], &udp(DNS, None, &answer(4)?)),
            [0, 0, 0, 0],
        ),
        (
            "a first fragment",
            ipv4(UDP, 0x2000, &[], first),
            [0, 0, 0, 0],
        ),
        ("and its rest", ipv4(UDP, 3, &[], rest), [1, 1, 0, 1]),
        (
            "no message",
            ipv4(UDP, 0, &[], &udp(DNS, None, &[])),
            [1, 1, 1, 0],
        ),
        (
            "half a header",
            ipv4(UDP, 0, &[], &udp(DNS, None, &answer(7)?[..11])),
            [1, 1, 1, 0],
        ),
        (
            "a header",
            ipv4(UDP, 0, &[], &udp(DNS, None, &answer(7)?[..12])),
            [1, 1, 1, 0],
        ),
        (
            "a length that leaves out the last byte",
            ipv4(
                UDP,
                0,
                &[],
                &udp(DNS, Some(7 + answer(8)?.len()), &answer(8)?),
            ),
            [1, 1, 0, 0],
        ),
        (
            "a length that is too large",
            ipv4(
                UDP,
                0,
                &[],
                &udp(DNS, Some(9 + answer(8)?.len()), &answer(8)?),
            ),
            [0, 0, 0, 0],
        ),
        (
            "a length that is too small for a header",
            ipv4(UDP, 0, &[], &udp(DNS, Some(7), &answer(8)?)),
            [0, 0, 0, 0],
        ),
        (
            "a very long one",
            ipv4(UDP, 0, &[], &udp(DNS, None, &long)),
            [1, 1, 0, 1],
        ),
        (
            "and a good one",
            ipv4(UDP, 0, &[], &udp(DNS, None, &answer(10)?)),
            [1, 1, 0, 1],
        ),
        (
            "a later fragment alone",
            ipv4(UDP, 9, &[], &whole),
            [0, 0, 0, 0],
        ),
    ];
    world.send(Ipv4Addr::LOCALHOST.into(), &cases)
}

/// A raw socket gets packets before anybody has looked at them.
#[test]
fn headers_that_are_cut() -> Result<()> {
    let mut world = World::new("packets-cut")?;
    // Without somebody there the kernel tells a connected socket that nobody is.
    let bind = format!("bind sink 127.0.0.1:{PORT}");
    world
        .sender
        .play(&["socket p v4 raw packets", "socket sink v4 dgram", &bind])?;
    let connect = format!("connect d 127.0.0.1:{DNS}");
    world.workload.play(&["socket d v4 raw udp", &connect])?;
    let datagram = udp(DNS, None, &answer(1)?);
    for length in 0..8 + 12 {
        let packet = ipv4(UDP, 0, &[], &datagram[..length]);
        // Without the port it is no answer, without a message it is of no use.
        let answers = u64::from(length >= 2);
        world.send(
            Ipv4Addr::LOCALHOST.into(),
            &[("cut", packet, [1, answers, answers, 0])],
        )?;
    }
    let lies = udp(DNS, Some(9), &answer(2)?);
    let cases: Vec<Case> = vec![
        ("whole", ipv4(UDP, 0, &[], &datagram), [1, 1, 0, 1]),
        ("a length that lies", ipv4(UDP, 0, &[], &lies), [1, 1, 0, 1]),
    ];
    world.send(Ipv4Addr::LOCALHOST.into(), &cases)
}

#[test]
fn ipv6_with_and_without_extension_headers() -> Result<()> {
    let mut world = World::new("packets-v6")?;
    world.sender.play(&["socket p v6 raw packets"])?;
    world.listen(Ipv6Addr::LOCALHOST.into())?;
    // Next header, length, and an option that pads.
    let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
    // Of a packet that is whole.
    let fragment = [UDP, 0, 0, 0, 0, 0, 0, 1];
    let cases: Vec<Case> = vec![
        (
            "plain",
            ipv6(UDP, &[], &udp_over_ipv6(DNS, &answer(1)?)),
            [1, 1, 0, 1],
        ),
        (
            "from another port",
            ipv6(UDP, &[], &udp_over_ipv6(54, &answer(2)?)),
            [1, 0, 0, 0],
        ),
        // Behind extension headers nobody looks: what is said there is not learned.
        (
            "options for every hop",
            ipv6(HOP_BY_HOP, &options, &udp_over_ipv6(DNS, &answer(3)?)),
            [1, 0, 0, 0],
        ),
        (
            "options for the destination",
            ipv6(
                DESTINATION_OPTIONS,
                &options,
                &udp_over_ipv6(DNS, &answer(4)?),
            ),
            [1, 0, 0, 0],
        ),
        (
            "a fragment that is whole",
            ipv6(FRAGMENT, &fragment, &udp_over_ipv6(DNS, &answer(5)?)),
            [1, 0, 0, 0],
        ),
        (
            "no message",
            ipv6(UDP, &[], &udp_over_ipv6(DNS, &[])),
            [1, 1, 1, 0],
        ),
        (
            "and a good one",
            ipv6(UDP, &[], &udp_over_ipv6(DNS, &answer(6)?)),
            [1, 1, 0, 1],
        ),
    ];
    world.send(Ipv6Addr::LOCALHOST.into(), &cases)
}

/// It takes more workloads than a node has, each with its whole share.
#[test]
fn a_full_map_learns_no_more_and_forgets_nothing() -> Result<()> {
    let mut world = World::new("packets-full")?;
    world.sender.play(&["socket p v4 raw packets"])?;
    world.listen(Ipv4Addr::LOCALHOST.into())?;
    let packet = |n| Ok::<_, anyhow::Error>(ipv4(UDP, 0, &[], &udp(DNS, None, &answer(n)?)));
    let here = Ipv4Addr::LOCALHOST.into();
    world.send(here, &[("before", packet(1)?, [1, 1, 0, 1])])?;
    let mut learned: HashMap<MapData, LearnedKey, Learned> =
        world.rig.map("LEARNED")?.try_into()?;
    let of_others = |n: usize| {
        let mut addr = [0; 16];
        addr[..8].copy_from_slice(&(n as u64).to_be_bytes());
        LearnedKey {
            workload: u64::MAX,
            addr,
        }
    };
    let entry = Learned {
        names: [1, 0, 0, 0],
        seen_ns: 1,
    };
    for n in 1..MAX_LEARNED {
        learned.insert(of_others(n), entry, 0)?;
    }
    world.send(here, &[("more", packet(2)?, [1, 1, 0, 0])])?;
    ensure!(world.rig.stats()?.learned_full == 1);
    // What is known stays, and is told again.
    world.send(here, &[("again", packet(1)?, [1, 1, 0, 0])])?;
    ensure!(world.rig.stats()?.learned_full == 1);
    ensure!(world.learned()?.len() == MAX_LEARNED);
    world.workload.play(&[
        "socket a v4 stream",
        "connect a 198.18.0.1:80",
        "exchange a -> 198.18.0.1:80",
    ])?;
    learned.remove(&of_others(1))?;
    world.send(here, &[("and room", packet(2)?, [1, 1, 0, 1])])
}

/// The kernel learns of each message what the same parser finds in it elsewhere.
#[test]
fn of_broken_messages_the_kernel_learns_what_they_say() -> Result<()> {
    let mut world = World::new("packets-broken")?;
    world
        .sender
        .play(&["socket p v4 dgram", &format!("bind p 127.0.0.1:{DNS}")])?;
    world.listen(Ipv4Addr::LOCALHOST.into())?;
    let wanted = dns::hash(HOST).context("no name")?;
    let length = answer(0)?.len();
    let mut messages = Vec::new();
    for at in 0..length {
        let mut n = u32::try_from(3 * at)?;
        messages.push(answer(n)?[..at].to_vec());
        for byte in [0xff, 0xc0] {
            n += 1;
            let mut message = answer(n)?;
            message[at] = byte;
            messages.push(message);
        }
    }
    let mut expected = BTreeSet::new();
    for message in &messages {
        dns::read(
            message.as_slice(),
            |name| name == wanted,
            |ip| {
                expected.insert(ip);
            },
        );
        let step = format!("packet p 127.0.0.1:{PORT} {}", hex(message)?);
        world.sender.play(&[&step])?;
        world.expected.arrived += 1;
        world.expected.answers += 1;
        // How many are of use is not what is asked here.
        world.arrived += world.workload.ask("drain d")?.parse::<u64>()?;
    }
    let answers = world.expected.answers;
    ensure!(eventually(
        || Ok(world.rig.stats()?.dns_answers == answers)
    )?);
    ensure!(world.learned()? == expected);
    // Some bytes do not matter, and most do.
    let learned = expected.len();
    ensure!(
        (20..messages.len() / 2).contains(&learned),
        "{learned} of {}",
        messages.len()
    );
    let good = map_address(Ipv4Addr::from_bits(0xc612_ffff).into());
    let step = format!("packet p 127.0.0.1:{PORT} {}", hex(&answer(0xffff)?)?);
    world.sender.play(&[&step])?;
    world.expected.arrived += 1;
    world.expected.answers += 1;
    let stats = world.rig.stats()?;
    world.expected.ignored = stats.dns_ignored;
    world.expected.learned = u64::try_from(learned)? + 1;
    world.settles()?;
    ensure!(world.learned()?.contains(&good));
    Ok(())
}
