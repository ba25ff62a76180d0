//! Authorities as requests name them, in the form in which Connectors are looked up.

use std::net::IpAddr;

/// The host part of `host[:port]`, lower case, brackets of IPv6 removed; and the port.
///
/// `None` when it is neither a name nor an address (RFC 3986, section 3.2.2).
pub fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let authority: http::uri::Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let port = match authority.port() {
        Some(port) => Some(port.as_u16()),
        // "host:" is allowed and means the default; anything else after the host is not.
        None if authority.as_str().len() > authority.host().len() + 1 => return None,
        None => None,
    };
    Some((normal_host(authority.host()), port))
}

/// A host in the form in which Connectors are looked up.
pub fn normal_host(host: &str) -> String {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => bare.trim_end_matches('.').to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_compared_in_one_form() {
        for (given, expected) in [
            ("Registry.Example.com", Some(("registry.example.com", None))),
            (
                "registry.example.com.",
                Some(("registry.example.com", None)),
            ),
            ("a:5000", Some(("a", Some(5000)))),
            ("[2001:DB8::1]:443", Some(("2001:db8::1", Some(443)))),
            ("192.0.2.1:80", Some(("192.0.2.1", Some(80)))),
            ("user@host", None),
            ("host:port", None),
            ("a b", None),
            ("", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(split_authority(given), expected, "{given}");
        }
    }
}
