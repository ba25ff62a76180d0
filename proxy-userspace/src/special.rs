//! Addresses that mean another machine, or none, depending on who dials them.
//!
//! What listens there trusts whoever reaches it: the kubelet and its helpers on a loopback
//! address, the cloud's metadata service on a link-local one. Nobody who chooses a name or an
//! address for the node to dial may choose one of these.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Metadata services that clouds do not keep at a link-local address, in the order AWS, Google
/// Cloud, Azure, Alibaba Cloud, Oracle Cloud.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why an address belongs to whoever dials it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The machine itself.
    Loopback,
    /// The machine's own links, the usual place of metadata services.
    LinkLocal,
    /// No machine, or the machine itself: 0.0.0.0/8 (RFC 1122, section 3.2.1.3) and `::`.
    Unspecified,
    /// Many machines.
    Multicast,
    /// All machines of a link.
    Broadcast,
    /// A cloud's metadata service at an address of another range.
    Metadata,
}

impl Special {
    /// What is special about an address or about the IPv4 address that it stands for; `None`
    /// for all that lead to the same machine from everywhere in a network.
    pub fn of(ip: IpAddr) -> Option<Self> {
        if METADATA.contains(&ip) {
            return Some(Self::Metadata);
        }
        match ip {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Metadata => "the address of a cloud's metadata service",
        })
    }
}

fn of_v4(ip: Ipv4Addr) -> Option<Special> {
    if ip.is_loopback() {
        Some(Special::Loopback)
    } else if ip.is_link_local() {
        Some(Special::LinkLocal)
    } else if ip.octets()[0] == 0 {
        Some(Special::Unspecified)
    } else if ip.is_multicast() {
        Some(Special::Multicast)
    } else if ip.is_broadcast() {
        Some(Special::Broadcast)
    } else {
        None
    }
}

fn of_v6(ip: Ipv6Addr) -> Option<Special> {
    if ip.is_loopback() {
        Some(Special::Loopback)
    } else if ip.is_unspecified() {
        Some(Special::Unspecified)
    } else if ip.is_unicast_link_local() {
        Some(Special::LinkLocal)
    } else if ip.is_multicast() {
        Some(Special::Multicast)
    } else {
        embedded_v4(ip).and_then(|ip| Special::of(ip.into()))
    }
}

/// The IPv4 address that a v4-mapped, v4-compatible, v4-translated (RFC 7915), NAT64
/// (RFC 6052, RFC 8215) or 6to4 (RFC 3056) address stands for.
pub fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = match ip.segments() {
        [0x2002, high, low, ..]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low] => [high, low],
        _ => return ip.to_ipv4(),
    };
    let [[a, b], [c, d]] = pair.map(u16::to_be_bytes);
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_belong_to_whoever_dials_them() {
        use Special::{Broadcast, LinkLocal, Loopback, Metadata, Multicast, Unspecified};
        for (ip, expected) in [
            ("127.0.0.1", Some(Loopback)),
            ("127.8.8.8", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("169.254.169.254", Some(LinkLocal)),
            ("fe80::1", Some(LinkLocal)),
            ("febf::1", Some(LinkLocal)),
            ("0.0.0.0", Some(Unspecified)),
            ("0.1.2.3", Some(Unspecified)),
            ("::", Some(Unspecified)),
            ("224.0.0.1", Some(Multicast)),
            ("ff02::1", Some(Multicast)),
            ("255.255.255.255", Some(Broadcast)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fd20:ce::254", Some(Metadata)),
            ("168.63.129.16", Some(Metadata)),
            ("100.100.100.200", Some(Metadata)),
            // In other words.
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:169.254.169.254", Some(LinkLocal)),
            ("::ffff:100.100.100.200", Some(Metadata)),
            ("::ffff:0:127.0.0.1", Some(Loopback)),
            ("::127.0.0.1", Some(Loopback)),
            ("64:ff9b::127.0.0.1", Some(Loopback)),
            ("64:ff9b:1::169.254.169.254", Some(LinkLocal)),
            ("2002:7f00:1::1", Some(Loopback)),
            ("2002:a9fe:a9fe::1", Some(LinkLocal)),
            // What services in a cluster or a company have.
            ("10.0.0.1", None),
            ("172.16.0.1", None),
            ("192.168.1.1", None),
            ("100.64.0.1", None),
            ("203.0.113.7", None),
            ("::ffff:10.0.0.1", None),
            ("64:ff9b::10.0.0.1", None),
            ("fd00::1", None),
            ("2001:db8::1", None),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(Special::of(ip), expected, "{ip}");
        }
    }
}
