//! Which token service a registry may send the credential to.
//!
//! The realm is chosen by the registry, hence by an attacker who runs one: without these
//! rules a Connector to such a registry turns the node into a client for addresses that
//! only the node can reach, and sends the credential along.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use crate::{
    special::{Special, embedded_v4},
    state::{Address, Scheme},
};

/// Why a realm is refused. No message shows the realm itself, which may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RealmError {
    /// Not an absolute URL with a host.
    #[error("it is not an absolute URL")]
    NotAUrl,
    /// Plain HTTP from a registry that is reached over HTTPS, or another scheme altogether.
    #[error("its scheme is not https (is the registry configured with its external URL?)")]
    Scheme,
    /// `https://user:password@…`.
    #[error("it contains user information")]
    UserInfo,
    /// An IP literal or name that means this node or a network only the node may reach.
    #[error("its host is a loopback, link-local, private or unspecified address")]
    PrivateAddress,
}

/// The token service's address, when `realm` is one that `registry` may name.
///
/// A realm on the registry's own host is allowed whatever its address is, which registries
/// inside a cluster or a private network need; their token service often has another port.
/// Names are not resolved here.
pub(super) fn verify(realm: &str, registry: &Address) -> Result<Url, RealmError> {
    let mut url = Url::parse(realm).map_err(|_| RealmError::NotAUrl)?;
    match url.scheme() {
        "https" => {}
        "http" if registry.scheme == Scheme::Http => {}
        _ => return Err(RealmError::Scheme),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RealmError::UserInfo);
    }
    let host = url.host().ok_or(RealmError::NotAUrl)?;
    if !is_named(&host, registry) && is_private(&host) {
        return Err(RealmError::PrivateAddress);
    }
    url.set_fragment(None);
    Ok(url)
}

/// Whether `url` names the registry's own host and port.
pub(super) fn is_same_host(url: &Url, registry: &Address) -> bool {
    let same_port = url.port_or_known_default() == Some(registry.port);
    same_port && url.host().is_some_and(|host| is_named(&host, registry))
}

fn is_named(host: &Host<&str>, registry: &Address) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case(&registry.host),
        Host::Ipv4(ip) => registry.host.parse() == Ok(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => registry.host.parse() == Ok(IpAddr::V6(*ip)),
    }
}

/// `Url` has normalised every notation of an IPv4 address (`0x7f.1`, `2130706433`) already.
fn is_private(host: &Host<&str>) -> bool {
    match host {
        // RFC 6761 section 6.3 makes the name and everything below it loopback.
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(ip) => is_private_v4(*ip),
        Host::Ipv6(ip) => is_private_v6(*ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    Special::of(ip.into()).is_some()
        || ip.is_private()
        // RFC 6598: shared address space, used for pods and nodes by several clouds.
        || (a == 100 && b & 0xc0 == 64)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    Special::of(ip.into()).is_some()
        || ip.is_unique_local()
        || embedded_v4(ip).is_some_and(is_private_v4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        let url = Url::parse(url).unwrap();
        Address {
            scheme: if url.scheme() == "https" {
                Scheme::Https
            } else {
                Scheme::Http
            },
            host: url.host_str().unwrap().trim_matches(['[', ']']).into(),
            port: url.port_or_known_default().unwrap(),
            path: String::new(),
        }
    }

    const HTTPS: &str = "https://registry.example.com";
    const HTTP: &str = "http://registry.example.com:5000";

    #[test]
    fn realm_safety_table() {
        use RealmError::{NotAUrl, PrivateAddress, Scheme, UserInfo};
        let table: &[(&str, &str, Result<(), RealmError>)] = &[
            // https elsewhere is the normal case: the token host differs from the registry's
            (HTTPS, "https://auth.example.com/token", Ok(())),
            (HTTPS, "https://auth.example.com:8443/token?x=1", Ok(())),
            (HTTPS, "https://registry.example.com/service/token", Ok(())),
            (HTTPS, "https://203.0.113.7/token", Ok(())),
            (HTTPS, "https://[2001:db8::7]/token", Ok(())),
            // scheme
            (HTTPS, "http://auth.example.com/token", Err(Scheme)),
            (HTTPS, "http://registry.example.com/token", Err(Scheme)),
            (HTTPS, "http://registry.example.com:443/token", Err(Scheme)),
            (HTTPS, "ftp://auth.example.com/token", Err(Scheme)),
            (HTTPS, "file:///etc/passwd", Err(Scheme)),
            (HTTP, "http://auth.example.com/token", Ok(())),
            (HTTP, "https://auth.example.com/token", Ok(())),
            (HTTP, "gopher://auth.example.com/", Err(Scheme)),
            // not a URL
            (HTTPS, "/token", Err(NotAUrl)),
            (HTTPS, "auth.example.com/token", Err(NotAUrl)),
            (HTTPS, "https://", Err(NotAUrl)),
            (HTTPS, "registry", Err(NotAUrl)),
            // user information
            (HTTPS, "https://user@auth.example.com/token", Err(UserInfo)),
            (
                HTTPS,
                "https://user:secret@registry.example.com/token",
                Err(UserInfo),
            ),
            (
                HTTPS,
                "https://:secret@auth.example.com/token",
                Err(UserInfo),
            ),
            // IPv4 in every notation
            (HTTPS, "https://127.0.0.1/token", Err(PrivateAddress)),
            (HTTPS, "https://127.8.8.8/token", Err(PrivateAddress)),
            (HTTPS, "https://2130706433/token", Err(PrivateAddress)),
            (HTTPS, "https://0x7f.1/token", Err(PrivateAddress)),
            (HTTPS, "https://0177.0.0.1/token", Err(PrivateAddress)),
            (HTTPS, "https://169.254.169.254/latest", Err(PrivateAddress)),
            (HTTPS, "https://10.0.0.1/token", Err(PrivateAddress)),
            (HTTPS, "https://172.16.0.1/token", Err(PrivateAddress)),
            (HTTPS, "https://172.32.0.1/token", Ok(())),
            (HTTPS, "https://192.168.1.1/token", Err(PrivateAddress)),
            (HTTPS, "https://100.64.0.1/token", Err(PrivateAddress)),
            (HTTPS, "https://100.128.0.1/token", Ok(())),
            (HTTPS, "https://0.0.0.0/token", Err(PrivateAddress)),
            (HTTPS, "https://0.1.2.3/token", Err(PrivateAddress)),
            (HTTPS, "https://255.255.255.255/token", Err(PrivateAddress)),
            (HTTP, "http://127.0.0.1/token", Err(PrivateAddress)),
            // IPv6
            (HTTPS, "https://[::1]/token", Err(PrivateAddress)),
            (HTTPS, "https://[::]/token", Err(PrivateAddress)),
            (HTTPS, "https://[fe80::1]/token", Err(PrivateAddress)),
            (HTTPS, "https://[fd00::1]/token", Err(PrivateAddress)),
            (HTTPS, "https://[ff02::1]/token", Err(PrivateAddress)),
            (
                HTTPS,
                "https://[::ffff:127.0.0.1]/token",
                Err(PrivateAddress),
            ),
            (
                HTTPS,
                "https://[::ffff:169.254.169.254]/token",
                Err(PrivateAddress),
            ),
            (HTTPS, "https://[::ffff:203.0.113.7]/token", Ok(())),
            (HTTPS, "https://[::127.0.0.1]/token", Err(PrivateAddress)),
            (
                HTTPS,
                "https://[64:ff9b::10.0.0.1]/token",
                Err(PrivateAddress),
            ),
            (HTTPS, "https://[2002:a00:1::1]/token", Err(PrivateAddress)),
            // names that are loopback by definition
            (HTTPS, "https://localhost/token", Err(PrivateAddress)),
            (HTTPS, "https://a.localhost./token", Err(PrivateAddress)),
            // the registry's own host, wherever it is
            (
                "https://10.0.0.5:8443",
                "https://10.0.0.5:8443/service/token",
                Ok(()),
            ),
            (
                "https://10.0.0.5:8443",
                "https://10.0.0.5/service/token",
                Ok(()),
            ),
            (
                "https://10.0.0.5:8443",
                "https://10.0.0.6:8443/token",
                Err(PrivateAddress),
            ),
            ("https://10.0.0.5", "http://10.0.0.5:443/token", Err(Scheme)),
            (
                "http://localhost:5000",
                "http://localhost:5000/token",
                Ok(()),
            ),
            (
                "http://localhost:5000",
                "http://localhost:5001/token",
                Ok(()),
            ),
            ("http://[::1]:5000", "http://[::1]:5000/token", Ok(())),
        ];
        for (registry, realm, expected) in table {
            let verdict = verify(realm, &address(registry)).map(drop);
            assert_eq!(verdict, *expected, "{realm} named by {registry}");
        }
    }

    #[test]
    fn the_query_of_a_realm_is_kept_and_its_fragment_is_not() {
        let url = verify("https://auth.example.com/token?tenant=a#b", &address(HTTPS)).unwrap();
        assert_eq!(url.as_str(), "https://auth.example.com/token?tenant=a");
    }

    #[test]
    fn a_refusal_never_repeats_the_user_information() {
        let refusal = verify("https://u:hunter2@auth.example.com/", &address(HTTPS)).unwrap_err();
        assert!(!format!("{refusal} {refusal:?}").contains("hunter2"));
    }
}
