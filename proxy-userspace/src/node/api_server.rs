//! The cluster's API server, which no pod is kept from while it is not known what it is granted.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{datapath::map_address, upstream::Resolver};

/// Names that lead there in every cluster, whatever its domain.
const NAMES: [&str; 3] = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];

/// By which addresses and names the API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServer {
    /// As the maps have them.
    addresses: BTreeSet<[u8; 16]>,
    /// Some clusters tell their pods a name instead.
    name: Option<String>,
}

impl ApiServer {
    /// At `host`, an address or a name, besides the names that it always has.
    pub fn at(host: &str) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self {
                addresses: BTreeSet::from([map_address(ip)]),
                name: None,
            },
            Err(_) => Self {
                addresses: BTreeSet::new(),
                name: Some(plain(host)).filter(|name| !name.is_empty()),
            },
        }
    }

    /// Whether a host is the API server, or has an address of it.
    pub(super) fn is(&self, host: &str, resolver: &Resolver) -> bool {
        self.is_name(&plain(host))
            || resolver
                .known(host)
                .into_iter()
                .any(|ip| self.addresses.contains(&map_address(ip)))
    }

    fn is_name(&self, host: &str) -> bool {
        let in_domain = host.strip_prefix("kubernetes.default.svc.").is_some();
        in_domain || NAMES.contains(&host) || self.name.as_deref() == Some(host)
    }
}

/// DNS knows neither case, nor a difference between a name and the same with a dot behind.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_known_by_names_and_addresses() {
        let resolver = Resolver::default();
        let by_address = ApiServer::at("10.96.0.1");
        for host in [
            "kubernetes",
            "kubernetes.default",
            "Kubernetes.Default.svc",
            "kubernetes.default.svc.",
            "kubernetes.default.svc.cluster.local",
            "kubernetes.default.svc.example.com",
            "10.96.0.1",
            "::ffff:10.96.0.1",
        ] {
            assert!(by_address.is(host, &resolver), "{host}");
        }
        for host in [
            "10.96.0.10",
            "kubernetes.example.com",
            "kubernetes.default.example.com",
            "my-kubernetes.default.svc",
            "",
        ] {
            assert!(!by_address.is(host, &resolver), "{host}");
            assert!(!ApiServer::at("").is(host, &resolver), "{host}");
        }
        let by_name = ApiServer::at("api.cluster.example.com");
        assert!(by_name.is("API.cluster.example.com.", &resolver));
        assert!(by_name.is("kubernetes.default.svc", &resolver));
        let six = ApiServer::at("fd00::1");
        assert!(six.is("fd00:0::1", &resolver));
    }
}
