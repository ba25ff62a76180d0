//! What `/etc/resolv.conf` and `/etc/hosts` say.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    str::from_utf8,
    time::Duration,
};

use resolv_conf::{ParseError, ScopedIp};

use crate::limits;

/// The name servers, and how they are asked. Defaults and limits are those of `resolv.conf(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServers {
    /// In the order in which they are asked.
    pub(super) servers: Vec<NameServer>,
    /// Domains that short names may belong to.
    pub(super) search: Vec<String>,
    /// Dots from which a name is asked for as it is before it is searched for.
    pub(super) ndots: usize,
    /// For one answer of one server.
    pub(super) timeout: Duration,
    /// How often each server is asked before that is given up.
    pub(super) attempts: u32,
    /// Whether the servers take turns in being the first.
    pub(super) rotate: bool,
    pub(super) edns0: bool,
    /// TCP only.
    pub(super) use_vc: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServer {
    pub(super) ip: IpAddr,
    /// Name or index of the interface to which a link-local address belongs.
    pub(super) zone: Option<String>,
}

impl Default for NameServers {
    /// What holds without a file.
    fn default() -> Self {
        Self::from(resolv_conf::Config::new())
    }
}

impl NameServers {
    /// Reads a `resolv.conf`. Lines that make no sense are skipped, as everywhere; what names no
    /// server because of them is refused with the first such line.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let (mut config, errors) = resolv_conf::Config::parse_with_errors(text);
        // What newer resolvers understand is no fault.
        let fault = errors
            .into_iter()
            .find(|error| !matches!(error, ParseError::InvalidOption(_)));
        match fault {
            Some(error) if config.nameservers.is_empty() => return Err(error),
            Some(error) => tracing::debug!("a part of /etc/resolv.conf is skipped: {error}"),
            None => {}
        }
        config.glibc_normalize();
        Ok(Self::from(config))
    }

    /// The names that `host` may stand for, all absolute, the likeliest first.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let as_it_is = format!("{host}.");
        let searched = self.search.iter().map(|domain| format!("{host}.{domain}."));
        let mut names = Vec::with_capacity(1 + self.search.len());
        if host.matches('.').count() >= self.ndots {
            names.push(as_it_is);
            names.extend(searched);
        } else {
            names.extend(searched);
            names.push(as_it_is);
        }
        names
    }
}

impl From<resolv_conf::Config> for NameServers {
    fn from(config: resolv_conf::Config) -> Self {
        let mut servers: Vec<_> = config.nameservers.iter().map(NameServer::from).collect();
        if servers.is_empty() {
            servers.push(NameServer {
                ip: Ipv4Addr::LOCALHOST.into(),
                zone: None,
            });
        }
        let search = config
            .get_last_search_or_domain()
            .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
            .filter(|domain| !domain.is_empty())
            .collect();
        let timeout = Duration::from_secs(config.timeout.into());
        Self {
            servers,
            search,
            ndots: usize::try_from(config.ndots).unwrap_or(usize::MAX),
            timeout: timeout.clamp(Duration::from_secs(1), limits::NAME_SERVER),
            attempts: config.attempts.clamp(1, limits::NAME_SERVER_ATTEMPTS),
            rotate: config.rotate,
            edns0: config.edns0,
            use_vc: config.use_vc,
        }
    }
}

impl From<&ScopedIp> for NameServer {
    fn from(server: &ScopedIp) -> Self {
        let zone = match server {
            ScopedIp::V6(_, zone) => zone.clone(),
            ScopedIp::V4(_) => None,
        };
        Self {
            ip: server.into(),
            zone,
        }
    }
}

/// Names that the machine itself knows.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Reads a `hosts` file. Lines that make no sense are skipped.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(line) = from_utf8(line) else {
                continue;
            };
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
                continue;
            };
            for name in words {
                let addresses = hosts.entry(canonical(name)).or_default();
                if !addresses.contains(&ip) && addresses.len() < limits::ADDRESSES_PER_NAME {
                    addresses.push(ip);
                }
            }
        }
        Self(hosts)
    }

    /// The addresses of a name, of both families. A name that is here is not asked for.
    pub(super) fn get(&self, host: &str) -> Option<&[IpAddr]> {
        self.0.get(&canonical(host)).map(Vec::as_slice)
    }
}

/// Whether a name means this machine, whatever any server says (RFC 6761, section 6.3).
pub(super) fn is_localhost(host: &str) -> bool {
    let host = canonical(host);
    host == "localhost" || host.ends_with(".localhost")
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NameServers {
        NameServers::parse(text.as_bytes()).expect("it is read")
    }

    fn ips(config: &NameServers) -> Vec<String> {
        let all = config.servers.iter();
        all.map(|server| server.ip.to_string()).collect()
    }

    #[test]
    fn what_is_not_said_is_what_the_manual_says() {
        let config = parse("");
        assert_eq!(config, NameServers::default());
        assert_eq!(ips(&config), ["127.0.0.1"]);
        assert_eq!((config.ndots, config.attempts), (1, 2));
        assert!(!config.rotate && !config.edns0 && !config.use_vc);
        assert!(config.search.is_empty());
    }

    #[test]
    fn the_file_of_a_pod_in_the_hosts_network_is_read() {
        let config = parse(
            "search team.svc.cluster.local svc.cluster.local cluster.local example.com\n\
             nameserver 192.0.2.10\n\
             nameserver fe80::1%eth0\n\
             options ndots:5 timeout:1 attempts:9 rotate edns0 something-new\n",
        );
        assert_eq!(ips(&config), ["192.0.2.10", "fe80::1"]);
        assert_eq!(config.servers[1].zone.as_deref(), Some("eth0"));
        assert_eq!(config.search.len(), 4);
        assert_eq!(config.timeout, Duration::from_secs(1));
        assert_eq!(config.attempts, limits::NAME_SERVER_ATTEMPTS);
        assert!(config.rotate && config.edns0);
        assert_eq!(config.ndots, 5);
    }

    #[test]
    fn limits_are_those_of_the_manual() {
        let config = parse(
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n\
             nameserver 192.0.2.4\nsearch one two\ndomain three\noptions timeout:0 attempts:0\n",
        );
        assert_eq!(ips(&config), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(config.search, ["three"]);
        assert_eq!(config.timeout, Duration::from_secs(1));
        assert_eq!(config.attempts, 1);
        let slow = parse("nameserver 192.0.2.1\noptions timeout:30");
        assert_eq!(slow.timeout, limits::NAME_SERVER);
    }

    #[test]
    fn what_names_no_server_is_refused_if_it_makes_no_sense() {
        for text in [b"nameserver nowhere".as_slice(), b"\xff\xfe\x00", b"<html>"] {
            assert!(NameServers::parse(text).is_err(), "{text:?}");
        }
        let partly = NameServers::parse(b"\xff\nnameserver 192.0.2.1\n").expect("one server");
        assert_eq!(ips(&partly), ["192.0.2.1"]);
    }

    #[test]
    fn names_are_searched_for_as_the_dots_say() {
        let config = parse("search svc.example.com Example.COM.\noptions ndots:2");
        assert_eq!(
            config.candidates("registry"),
            [
                "registry.svc.example.com.",
                "registry.example.com.",
                "registry."
            ]
        );
        assert_eq!(config.candidates("a.b.c")[0], "a.b.c.");
        assert_eq!(config.candidates("a.b.c").len(), 3);
        assert_eq!(config.candidates("a.b")[0], "a.b.svc.example.com.");
        assert_eq!(config.candidates("a.b."), ["a.b."]);
    }

    #[test]
    fn a_hosts_file_is_read() {
        let hosts = Hosts::parse(
            b"# comment\n192.0.2.1 One.example.com one # the first\n\
              2001:db8::1\tone\n192.0.2.2 one\n192.0.2.2 one\nnot-an-ip two\n\xff two\n192.0.2.3\n",
        );
        let ips = |name: &str| {
            let found = hosts.get(name).map(|ips| ips.iter().map(IpAddr::to_string));
            found.map(Vec::from_iter)
        };
        assert_eq!(ips("one.example.com."), Some(vec!["192.0.2.1".into()]));
        let three = ["192.0.2.1", "2001:db8::1", "192.0.2.2"];
        assert_eq!(ips("ONE"), Some(three.map(str::to_owned).to_vec()));
        assert_eq!(ips("two"), None);
    }

    #[test]
    fn a_name_has_only_so_many_addresses() {
        let lines: Vec<_> = (0..1000)
            .map(|n| format!("192.0.{}.{} many", n / 250, n % 250))
            .collect();
        let hosts = Hosts::parse(lines.join("\n").as_bytes());
        assert_eq!(
            hosts.get("many").map(<[_]>::len),
            Some(limits::ADDRESSES_PER_NAME)
        );
    }

    #[test]
    fn localhost_is_here() {
        for name in ["localhost", "LOCALHOST.", "registry.localhost"] {
            assert!(is_localhost(name), "{name}");
        }
        for name in ["localhost.example.com", "mylocalhost"] {
            assert!(!is_localhost(name), "{name}");
        }
    }
}
