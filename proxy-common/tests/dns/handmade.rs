//! Messages of every kind, written byte by byte.

use std::net::IpAddr;

use proxy_common::dns::{STEPS, hash, read};

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const OPT: u16 = 41;
pub(crate) const IN: u16 = 1;
pub(crate) const CHAOS: u16 = 3;
/// What is learned when nothing is.
pub(crate) const NOTHING: [IpAddr; 0] = [];
/// Where the question's name stands.
pub(crate) const QUESTION: [u8; 2] = [0xc0, 12];

/// A name without compression.
pub(crate) fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.') {
        wire.push(u8::try_from(label.len()).expect("a short label"));
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

/// A standard response with one question, to which answers are added.
#[derive(Clone)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn about(host: &str) -> Self {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(name(host));
        bytes.extend([0, 1, 0, 1]);
        Self(bytes)
    }

    pub(crate) fn record(mut self, owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Self {
        self.0[7] += 1;
        self.0.extend(owner);
        self.0.extend(kind.to_be_bytes());
        self.0.extend(class.to_be_bytes());
        self.0.extend([0, 0, 0, 60]);
        let length = u16::try_from(data.len()).expect("short data");
        self.0.extend(length.to_be_bytes());
        self.0.extend(data);
        self
    }

    pub(crate) fn a(self, owner: &[u8], last: u8) -> Self {
        self.record(owner, A, IN, &[192, 0, 2, last])
    }

    pub(crate) fn with(mut self, at: usize, byte: u8) -> Self {
        self.0[at] = byte;
        self
    }

    /// A pointer to the data of the record that is added next, whose owner is a pointer.
    pub(crate) fn next_data(&self) -> [u8; 2] {
        let at = u16::try_from(self.0.len() + 12).expect("a short message");
        (at | 0xc000).to_be_bytes()
    }
}

/// What is learned for a host.
pub(crate) fn learned(host: &str, message: &[u8]) -> Vec<IpAddr> {
    let wanted = hash(host);
    let mut all = Vec::new();
    let found = |address: [u8; 16]| all.push(IpAddr::from(address).to_canonical());
    read(message, |name| Some(name) == wanted, found);
    all
}

fn ips<const N: usize>(all: [&str; N]) -> Vec<IpAddr> {
    all.map(|ip| ip.parse().expect("an address")).to_vec()
}

const HOST: &str = "registry.example.com";

#[test]
fn addresses_of_both_families_are_learned() {
    let v6 = "2001:db8::7"
        .parse::<std::net::Ipv6Addr>()
        .expect("an address");
    let message = Message::about(HOST)
        .a(&QUESTION, 1)
        .a(&name(HOST), 2)
        .record(&QUESTION, AAAA, IN, &v6.octets())
        .record(&QUESTION, TXT, IN, b"\x03abc")
        .a(&QUESTION, 3);
    let all = ips(["192.0.2.1", "192.0.2.2", "2001:db8::7", "192.0.2.3"]);
    assert_eq!(learned(HOST, &message.0), all);
    assert_eq!(learned("other.example.com", &message.0), NOTHING);
}

#[test]
fn case_does_not_matter_and_labels_do() {
    let message = Message::about("ReGiStRy.Example.COM").a(&name("REGISTRY.example.com"), 1);
    assert_eq!(learned(HOST, &message.0), ips(["192.0.2.1"]));
    // A dot inside a label is no border between two.
    let mut bytes = Message::about("registry-example-com").a(&QUESTION, 1).0;
    for at in [21, 29] {
        bytes[at] = b'.';
    }
    assert_eq!(&bytes[13..33], b"registry.example.com");
    assert_eq!(learned(HOST, &bytes), NOTHING);
    assert_eq!(hash("Registry.example.com."), hash(HOST));
    assert_ne!(hash("registry.example"), hash(HOST));
    for none in ["", ".", "a..b", &"a".repeat(64), &["abcdefg"; 33].join(".")] {
        assert_eq!(hash(none), None, "{none}");
    }
    assert!(hash(&"a".repeat(63)).is_some());
}

#[test]
fn a_chain_of_names_is_followed_in_its_order() {
    let message = Message::about(HOST);
    let first = message.next_data();
    let message = message.record(&QUESTION, CNAME, IN, &name("cdn.example.net"));
    let second = message.next_data();
    // The rest of the name is that of the question: example.com.
    let message = message
        .record(&first, CNAME, IN, &[3, b'l', b'b', b'1', 0xc0, 21])
        .a(&second, 1)
        .a(&name("LB1.example.com"), 2)
        .a(&QUESTION, 3)
        .a(&first, 4);
    assert_eq!(learned(HOST, &message.0), ips(["192.0.2.1", "192.0.2.2"]));
}

#[test]
fn a_name_may_be_another_name_for_itself() {
    let message = Message::about(HOST)
        .record(&QUESTION, CNAME, IN, &QUESTION)
        .a(&QUESTION, 1);
    assert_eq!(learned(HOST, &message.0), ips(["192.0.2.1"]));
}

#[test]
fn what_is_about_something_else_is_passed_over() {
    let message = Message::about(HOST)
        .a(&name("other.example.com"), 1)
        .record(&QUESTION, A, CHAOS, &[192, 0, 2, 2])
        .record(&QUESTION, A, IN, &[192, 0, 2])
        .record(&QUESTION, AAAA, IN, &[192, 0, 2, 4])
        .record(&name("other.example.com"), CNAME, IN, &QUESTION)
        .a(&QUESTION, 5);
    assert_eq!(learned(HOST, &message.0), ips(["192.0.2.5"]));
}

#[test]
fn other_sections_are_not_looked_at() {
    let mut message = Message::about(HOST).a(&QUESTION, 1).a(&QUESTION, 2).record(
        &[0],
        OPT,
        1232,
        &[0, 10, 0, 2, 1, 2],
    );
    // One answer, one authority, one additional record.
    message.0[7] = 1;
    message.0[9] = 1;
    message.0[11] = 1;
    assert_eq!(learned(HOST, &message.0), ips(["192.0.2.1"]));
}

#[test]
fn only_answers_that_can_be_believed_are() {
    let good = Message::about(HOST).a(&QUESTION, 1);
    assert_eq!(learned(HOST, &good.0).len(), 1);
    let class = 12 + name(HOST).len() + 3;
    for (what, at, byte) in [
        ("a query", 2, 0x01),
        ("another opcode", 2, 0x89),
        ("no such name", 3, 0x83),
        ("refused", 3, 0x85),
        ("no question", 5, 0),
        ("two questions", 5, 2),
        ("many questions", 4, 1),
        ("no answers", 7, 0),
        ("another class", class, 3),
    ] {
        assert_eq!(
            learned(HOST, &good.clone().with(at, byte).0),
            NOTHING,
            "{what}"
        );
    }
    // AA, TC, RA, AD and CD change nothing.
    for flags in [[0x87, 0x80], [0x83, 0x80], [0x80, 0xb0], [0x80, 0x00]] {
        let message = good.clone().with(2, flags[0]).with(3, flags[1]);
        assert_eq!(learned(HOST, &message.0).len(), 1, "{flags:02x?}");
    }
}

#[test]
fn reading_ends_at_its_limit() {
    let plain = name(HOST);
    let mut message = Message::about(HOST);
    for last in 0..100 {
        message = message.a(&plain, last);
    }
    let steps_each = plain.len() + 1;
    let expected = STEPS / steps_each;
    assert!(expected < 100, "more than there are");
    assert_eq!(learned(HOST, &message.0).len(), expected);
    let mut message = Message::about(HOST);
    for last in 0..255 {
        message = message.a(&QUESTION, last);
    }
    assert_eq!(learned(HOST, &message.0).len(), 255);
}
