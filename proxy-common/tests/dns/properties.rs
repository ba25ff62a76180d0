//! Made-up messages, encoded by another implementation, and what mutations make of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, TXT},
    },
};
use proptest::prelude::*;

use crate::{corpus, oracle};

/// Few enough that records are about each other.
const NAMES: [&str; 5] = [
    "registry.example.com.",
    "REGISTRY.example.com.",
    "cdn.example.com.",
    "a.b.c.d.example.net.",
    "com.",
];

fn a_name() -> impl Strategy<Value = Name> {
    prop::sample::select(&NAMES[..]).prop_map(|name| Name::from_ascii(name).expect("a name"))
}

fn some_data() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|ip| RData::A(A(Ipv4Addr::from_bits(ip)))),
        any::<u128>().prop_map(|ip| RData::AAAA(AAAA(Ipv6Addr::from_bits(ip)))),
        a_name().prop_map(|name| RData::CNAME(CNAME(name))),
        Just(RData::TXT(TXT::new(vec!["text".into()]))),
    ]
}

prop_compose! {
    fn message()(
        asked in a_name(),
        records in prop::collection::vec((a_name(), some_data()), 0..12),
        edns in any::<bool>(),
    ) -> Vec<u8> {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(asked, RecordType::A));
        for (owner, data) in records {
            message.add_answer(Record::from_rdata(owner, 60, data));
        }
        if edns {
            message.set_edns(hickory_proto::op::Edns::new());
        }
        message.to_vec().expect("it encodes")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn both_decoders_find_the_same(message in message()) {
        for host in NAMES {
            oracle::check(host, &message);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        oracle::check(corpus::HOST, &bytes);
    }

    #[test]
    fn mutations_make_nothing_up(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = corpus::good();
        let (host, message) = which.get(&all);
        let mut message = message.clone();
        for (at, value) in changes {
            let at = at.index(message.len());
            message[at] = value;
        }
        message.truncate(cut.index(message.len() * 2).max(12));
        oracle::check(host, &message);
    }
}
