//! What another decoder makes of a message.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData},
};

use crate::handmade::learned;

/// Learned addresses must stand in the message, and where the other decoder takes the message,
/// it must find the same.
pub(crate) fn check(host: &str, bytes: &[u8]) {
    let ours = learned(host, bytes);
    for ip in &ours {
        assert!(holds(bytes, *ip), "{ip} is not in the message");
    }
    if let Ok(message) = Message::from_vec(bytes) {
        assert_eq!(ours, expected(host, &message), "{message:?}");
    }
}

/// Whether the bytes of an address are in a message.
pub(crate) fn holds(bytes: &[u8], ip: IpAddr) -> bool {
    let contains = |octets: &[u8]| bytes.windows(octets.len()).any(|some| some == octets);
    match ip {
        IpAddr::V4(ip) => contains(&ip.octets()),
        IpAddr::V6(ip) => contains(&ip.octets()),
    }
}

/// The rules once more, over decoded records.
fn expected(host: &str, message: &Message) -> Vec<IpAddr> {
    let [question] = message.queries.as_slice() else {
        return Vec::new();
    };
    let head = &message.metadata;
    let Ok(mut wanted) = Name::from_ascii(host) else {
        return Vec::new();
    };
    wanted.set_fqdn(true);
    if head.message_type != MessageType::Response
        || head.op_code != OpCode::Query
        || head.response_code.low() != ResponseCode::NoError.low()
        || question.query_class() != DNSClass::IN
        || *question.name() != wanted
    {
        return Vec::new();
    }
    let mut all = Vec::new();
    for record in &message.answers {
        if record.name != wanted || record.dns_class != DNSClass::IN {
            continue;
        }
        match &record.data {
            RData::A(ip) => all.push(IpAddr::V4(ip.0)),
            RData::AAAA(ip) => all.push(IpAddr::V6(ip.0).to_canonical()),
            RData::CNAME(target) => wanted = target.0.clone(),
            _ => {}
        }
    }
    all.retain(|ip| {
        !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    });
    all
}
