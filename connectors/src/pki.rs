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

/// How long before they are made certificates begin: clocks of clients may be behind ours.
pub const BACKDATED: Duration = Duration::from_hours(1);
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
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    use rustls_pki_types::{CertificateDer, UnixTime};
    use webpki::{EndEntityCert, KeyUsage};

    use super::*;
    use crate::Address;

    /// Whether a verifier accepts a leaf for `host` below an authority with these constraints.
    fn accepts(hosts: &[&str], host: &str) -> bool {
        let (root_key, key) = (KeyPair::generate(), KeyPair::generate());
        let (root_key, key) = (root_key.expect("a key"), key.expect("a key"));
        let day = Duration::from_hours(24);
        let root = ca_params("root", BasicConstraints::Constrained(1), day);
        let root_der = root.self_signed(&root_key).expect("a root").der().clone();
        let mut params = ca_params("node", BasicConstraints::Constrained(0), day);
        params.name_constraints = Some(constraints(hosts.iter().copied()));
        let node = params
            .signed_by(&key, &Issuer::new(root, &root_key))
            .expect("an authority");
        let leaf_key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = leaf
            .signed_by(&leaf_key, &Issuer::new(params, &key))
            .expect("a leaf");
        let anchors = [webpki::anchor_from_trusted_cert(&root_der).expect("a root")];
        let leaf: &CertificateDer<'_> = leaf.der();
        let leaf = EndEntityCert::try_from(leaf).expect("a leaf");
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[node.der().clone()],
            UnixTime::now(),
            KeyUsage::server_auth(),
            None,
            None,
        )
        .is_ok()
    }

    #[test]
    fn a_verifier_takes_constraints_with_every_shape_of_address() {
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        let shapes = [
            "registry.example.com",
            "localhost",
            "a",
            "my-registry.example.com",
            "a--b.example.com",
            "xn--bcher-kva.example",
            "b\u{fc}cher.example",
            "UPPER.example.com",
            "under_score.example.com",
            "_start.example.com",
            "end_.example.com",
            "1.example.com",
            "1a.2b.example.com",
            "example.c0m",
            "example.0x",
            "192.0.2.1",
            "0x7f.1",
            "[2001:db8::1]",
            "[::ffff:192.0.2.1]",
            "[::]",
            &longest,
        ];
        let mut hosts = Vec::new();
        for shape in shapes {
            match Address::parse(&format!("https://{shape}")) {
                Ok(address) => hosts.push(address.host),
                // What is refused cannot get here; the ordinary ones must not be.
                Err(error) => assert!(shape.contains("0x"), "{shape}: {error}"),
            }
        }
        assert!(hosts.len() >= shapes.len() - 2);
        let other = "innocent.example.com";
        for host in &hosts {
            assert!(
                accepts(&[host, other], other),
                "{host} spoils the certificate"
            );
        }
        // The reason why hyphens at the ends of labels are refused as addresses.
        assert!(!accepts(&["-a.example.com", other], other));
    }

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
