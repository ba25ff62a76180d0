//! Messages that are cut, or lie.

use std::net::IpAddr;

use crate::{
    corpus,
    handmade::{A, IN, Message, NOTHING, QUESTION, learned, name},
    oracle,
};

const HOST: &str = "registry.example.com";

#[test]
fn of_a_cut_message_whole_records_are_learned() {
    for (host, message) in corpus::good() {
        let all = learned(&host, &message);
        let mut before = 0;
        for length in 0..=message.len() {
            let some = learned(&host, &message[..length]);
            assert!(some.len() >= before && all.starts_with(&some));
            // What is learned is there as a whole.
            for ip in &some {
                assert!(oracle::holds(&message[..length], *ip), "{ip} at {length}");
            }
            before = some.len();
        }
        assert_eq!(before, all.len());
        assert!(!all.is_empty(), "{host}");
    }
}

#[test]
fn a_flipped_bit_makes_no_address_up() {
    for (host, message) in corpus::good() {
        for bit in 0..message.len() * 8 {
            let mut message = message.clone();
            message[bit / 8] ^= 1 << (bit % 8);
            oracle::check(&host, &message);
        }
    }
}

#[test]
fn every_value_of_every_byte_is_survived() {
    for (host, message) in corpus::good() {
        for at in 0..message.len() {
            for value in 0..=u8::MAX {
                let mut message = message.clone();
                message[at] = value;
                oracle::check(&host, &message);
            }
        }
    }
}

#[test]
fn pointers_lead_back_or_nowhere() {
    let owner = Message::about(HOST).0.len();
    let at = |place: usize| {
        let [high, low] = u16::try_from(place).expect("a place").to_be_bytes();
        [high | 0xc0, low]
    };
    for (what, pointer) in [
        ("itself", at(owner)),
        ("its own second byte", at(owner + 1)),
        ("forward", at(owner + 16)),
        ("the header, where no name is", at(2)),
        ("behind the message", at(0x3fff)),
    ] {
        let message = Message::about(HOST).a(&pointer, 1).a(&QUESTION, 2);
        assert_eq!(learned(HOST, &message.0), NOTHING, "{what}");
    }
    // Zeros of the header can be read as the root.
    let message = Message::about(HOST).a(&at(8), 1).a(&QUESTION, 2);
    assert_eq!(learned(HOST, &message.0).len(), 1);
    // Two that lead to each other.
    let mut message = Message::about(HOST).a(&at(owner + 16), 1);
    let second = message.0.len();
    message = message.a(&at(owner), 2);
    assert_eq!(second, owner + 16);
    assert_eq!(learned(HOST, &message.0), NOTHING);
    // In the question there is nothing to lead back to.
    let message = Message::about(HOST)
        .with(12, 0xc0)
        .with(13, 12)
        .a(&QUESTION, 1);
    assert_eq!(learned(HOST, &message.0), NOTHING);
}

#[test]
fn a_chain_of_pointers_is_followed() {
    let mut message = Message::about(HOST);
    let mut pointer = QUESTION;
    for last in 0..20u8 {
        // The next owner leads to this one, which leads to the one before.
        let here = u16::try_from(message.0.len()).expect("a place") | 0xc000;
        message = message.a(&pointer, last);
        pointer = here.to_be_bytes();
    }
    assert_eq!(learned(HOST, &message.0).len(), 20);
}

#[test]
fn names_and_labels_have_their_limits() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let message = Message::about(&longest)
        .a(&name(&longest), 1)
        .a(&QUESTION, 2);
    assert_eq!(learned(&longest, &message.0).len(), 2);
    // One byte more.
    let longer = format!("{longest}a");
    let message = Message::about(HOST).a(&name(&longer), 1).a(&QUESTION, 2);
    assert_eq!(learned(HOST, &message.0), NOTHING);
    let mut asked = Message::about(&longer).a(&QUESTION, 1).0;
    assert!(read_names(&asked).is_empty());
    asked = Message::about(&longest).a(&QUESTION, 1).0;
    assert_eq!(read_names(&asked).len(), 1);
    // The reserved forms of a label, in an owner and in the question.
    for byte in [0x40, 0x80, 0xbf] {
        let message = Message::about(HOST).a(&[byte, 0], 1).a(&QUESTION, 2);
        assert_eq!(learned(HOST, &message.0), NOTHING);
        let message = Message::about(HOST).with(12, byte).a(&QUESTION, 2);
        assert!(read_names(&message.0).is_empty());
    }
}

/// All names that are asked for.
fn read_names(message: &[u8]) -> Vec<u64> {
    let names = std::cell::RefCell::new(Vec::new());
    let wants = |name| {
        names.borrow_mut().push(name);
        true
    };
    proxy_common::dns::read(message, wants, |_| {});
    names.into_inner()
}

#[test]
fn counts_and_lengths_that_lie_add_nothing() {
    let one: Vec<IpAddr> = vec!["192.0.2.1".parse().expect("an address")];
    let message = Message::about(HOST).a(&QUESTION, 1);
    assert_eq!(learned(HOST, &message.clone().with(7, 200).0), one);
    assert_eq!(learned(HOST, &message.clone().with(6, 0xff).0), one);
    let two = message.clone().a(&QUESTION, 2);
    assert_eq!(learned(HOST, &two.with(7, 1).0), one);
    // Data that reaches past the end, or past that of a CNAME.
    let long = Message::about(HOST).record(&QUESTION, A, IN, &[192, 0, 2, 1]);
    let length = long.0.len() - 5;
    assert_eq!(learned(HOST, &long.with(length, 5).0), NOTHING);
    let cname = Message::about(HOST).record(&QUESTION, 5, IN, &name("cdn.example.net"));
    let length = cname.0.len() - name("cdn.example.net").len() - 1;
    for lie in [0, 3, 16, 18, 200] {
        let message = cname
            .clone()
            .with(length, lie)
            .a(&name("cdn.example.net"), 1);
        assert_eq!(learned(HOST, &message.0), NOTHING, "{lie}");
    }
}
