//! Addresses that a host can have.

/// Third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0xffff;

/// Whether a host can have an address, IPv4 in its v4-mapped form: it is neither unspecified nor
/// multicast nor limited broadcast (RFC 1122, section 3.2.1.3; RFC 4291, sections 2.5.2 and 2.7).
#[inline(always)]
pub fn is_of_host(addr: &[u8; 16]) -> bool {
    let (&[a, b, c, d], _) = addr.as_chunks() else {
        return false;
    };
    let [a, b, c, d] = [a, b, c, d].map(u32::from_be_bytes);
    match (a, b, c) {
        (0, 0, MAPPED) => d != 0 && d >> 28 != 0xe && d != u32::MAX,
        (0, 0, 0) => d != 0,
        _ => a >> 24 != 0xff,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn what_no_host_has_is_told_apart() {
        for (addr, expected) in [
            ("::", false),
            ("::1", true),
            ("::e000:1", true),
            ("fe80::1", true),
            ("2001:db8::1", true),
            ("ff02::1", false),
            ("feff::1", true),
            ("::ffff:0.0.0.0", false),
            ("::ffff:0.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:192.0.2.1", true),
            ("::ffff:223.255.255.255", true),
            ("::ffff:224.0.0.0", false),
            ("::ffff:239.255.255.255", false),
            ("::ffff:240.0.0.0", true),
            ("::ffff:255.255.255.254", true),
            ("::ffff:255.255.255.255", false),
        ] {
            let parsed: Ipv6Addr = addr.parse().expect("an address");
            assert_eq!(is_of_host(&parsed.octets()), expected, "{addr}");
        }
    }
}
