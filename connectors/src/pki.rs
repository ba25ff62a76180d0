//! What the certificate authorities have in common: those of `postern run`, of the cluster
//! and of its nodes.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls::crypto::GetRandomFailed;
use rustls::crypto::aws_lc_rs::default_provider;
use time::OffsetDateTime;

/// Clocks of clients may be behind ours.
const BACKDATED: Duration = Duration::from_hours(1);
/// Stands in for "no DNS name at all": a constraint without names would allow every name.
const NO_NAME: &str = "postern.invalid";

/// An authority with this common name, which may have authorities below it as `depth` says.
pub fn ca_params(name: &str, depth: BasicConstraints, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    (params.not_before, params.not_after) = validity(life);
    params.is_ca = IsCa::Ca(depth);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A subject that has no more than a common name.
pub fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From an hour ago to the end of `life` from now.
pub fn validity(life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = SystemTime::now();
    ((now - BACKDATED).into(), (now + life).into())
}

/// 127 random bits: positive, and unique enough (RFC 5280, section 4.1.2.2).
pub fn serial() -> Result<SerialNumber, GetRandomFailed> {
    let mut bytes = [0; 16];
    default_provider().secure_random.fill(&mut bytes)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Permits the hosts, DNS names and IP addresses, and nothing else of both kinds.
pub fn constraints<'a>(hosts: impl IntoIterator<Item = &'a str>) -> NameConstraints {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for host in hosts {
        match host.parse::<IpAddr>() {
            Ok(ip) => addresses.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                ip,
                host_prefix(ip),
            ))),
            Err(_) => names.push(GeneralSubtree::DnsName(host.to_owned())),
        }
    }
    if names.is_empty() {
        names.push(GeneralSubtree::DnsName(NO_NAME.to_owned()));
    }
    let mut excluded = Vec::new();
    if addresses.is_empty() {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    names.extend(addresses);
    NameConstraints {
        permitted_subtrees: names,
        excluded_subtrees: excluded,
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_permitted_of_a_kind_that_has_no_host() {
        let none = constraints([]);
        assert_eq!(
            none.permitted_subtrees,
            [GeneralSubtree::DnsName(NO_NAME.to_owned())]
        );
        assert_eq!(none.excluded_subtrees.len(), 2);
        let names = constraints(["a.example.com"]);
        assert_eq!(names.permitted_subtrees.len(), 1);
        assert_eq!(names.excluded_subtrees.len(), 2);
        let addresses = constraints(["192.0.2.1", "2001:db8::1"]);
        assert_eq!(addresses.permitted_subtrees.len(), 3);
        assert!(addresses.excluded_subtrees.is_empty());
    }

    #[test]
    fn serial_numbers_are_positive_and_differ() {
        let (one, two) = (serial().expect("one"), serial().expect("another"));
        assert_ne!(one, two);
        assert!(one.to_bytes()[0] < 0x80 && two.to_bytes()[0] < 0x80);
    }
}
