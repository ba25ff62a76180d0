//! From Connectors to the addresses that the kernel redirects.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Result, bail};
use proxy_common::maps::{
    DESTINATION_FAIL_OPEN, Destination, DestinationKey, PORTS_PER_DESTINATION,
};

use crate::{
    datapath::map_address,
    state::{Connector, ConnectorId, FailurePolicy},
    upstream::Resolver,
};

/// What Connectors want of one address.
#[derive(Debug, Default)]
struct Wanted {
    ports: BTreeSet<u16>,
    connectors: BTreeSet<ConnectorId>,
    closed: bool,
}

/// The addresses behind a set of Connectors, as they change.
pub(super) struct Destinations<'a> {
    policy: u32,
    connectors: &'a [Arc<Connector>],
    resolver: &'a Resolver,
    /// Hosts that did not resolve the last time, and were complained about.
    missing: HashSet<String>,
}

impl<'a> Destinations<'a> {
    pub(super) fn new(
        policy: u32,
        connectors: &'a [Arc<Connector>],
        resolver: &'a Resolver,
    ) -> Self {
        Self {
            policy,
            connectors,
            resolver,
            missing: HashSet::new(),
        }
    }

    /// Resolves every Connector's host. One that does not resolve is logged once and left
    /// out: it will be there as soon as it does.
    pub(super) async fn resolve(&mut self) -> Result<Vec<(DestinationKey, Destination)>> {
        let mut wanted: BTreeMap<IpAddr, Wanted> = BTreeMap::new();
        for connector in self.connectors {
            for address in connector.addresses() {
                for ip in self.addresses(connector, &address.host).await {
                    let entry = wanted.entry(ip).or_default();
                    entry.ports.insert(address.port);
                    entry.connectors.insert(connector.id);
                    entry.closed |= connector.failure_policy == FailurePolicy::Closed;
                }
            }
        }
        wanted
            .into_iter()
            .map(|(ip, wanted)| entry(self.policy, ip, &wanted))
            .collect()
    }

    async fn addresses(&mut self, connector: &Connector, host: &str) -> Vec<IpAddr> {
        match self.resolver.all_addresses(host).await {
            Ok(addresses) => {
                self.missing.remove(host);
                addresses
            }
            Err(error) => {
                if self.missing.insert(host.to_owned()) {
                    tracing::warn!(
                        "cannot resolve {host} of connector {connector}: {error}; connections \
                         to it get no credential until it resolves"
                    );
                }
                Vec::new()
            }
        }
    }
}

fn entry(policy: u32, ip: IpAddr, wanted: &Wanted) -> Result<(DestinationKey, Destination)> {
    if wanted.ports.len() > PORTS_PER_DESTINATION {
        bail!(
            "Connectors use {} ports of {ip}, more than the {PORTS_PER_DESTINATION} that one \
             address can have; give some of the services addresses of their own",
            wanted.ports.len()
        );
    }
    let mut ports = [0; PORTS_PER_DESTINATION];
    for (place, port) in ports.iter_mut().zip(&wanted.ports) {
        *place = *port;
    }
    let mut connectors = wanted.connectors.iter();
    let connector = match (connectors.next(), connectors.next()) {
        (Some(only), None) => only.0,
        _ => 0,
    };
    let key = DestinationKey {
        policy,
        addr: map_address(ip),
    };
    let value = Destination {
        connector,
        flags: if wanted.closed {
            0
        } else {
            DESTINATION_FAIL_OPEN
        },
        ports,
    };
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Address, ClientAuthorization, Protocol, Scheme};

    fn connector(id: u32, host: &str, port: u16, failure_policy: FailurePolicy) -> Arc<Connector> {
        Arc::new(Connector {
            id: ConnectorId(id),
            namespace: "default".into(),
            name: format!("c{id}"),
            class: "generic-basic".into(),
            address: Address {
                scheme: Scheme::Https,
                host: host.into(),
                port,
                path: String::new(),
            },
            extensions: Vec::new(),
            protocol: Protocol::Http,
            credential: None,
            client_authorization: ClientAuthorization::Replace,
            failure_policy,
            extra_roots: Vec::new(),
        })
    }

    #[tokio::test]
    async fn connectors_at_one_address_share_an_entry() {
        let connectors = [
            connector(1, "192.0.2.1", 443, FailurePolicy::Open),
            connector(2, "192.0.2.1", 5000, FailurePolicy::Closed),
            connector(3, "2001:db8::1", 443, FailurePolicy::Open),
        ];
        let entries = Destinations::new(7, &connectors, &Resolver::default())
            .resolve()
            .await
            .expect("entries");
        let [(v4, shared), (v6, single)] = entries.as_slice() else {
            panic!("{entries:?}");
        };
        assert_eq!(v4.policy, 7);
        assert_eq!(
            v4.addr,
            map_address("192.0.2.1".parse().expect("an address"))
        );
        assert_eq!(shared.ports, [443, 5000, 0, 0]);
        assert_eq!((shared.connector, shared.flags), (0, 0));
        assert_eq!(
            v6.addr,
            map_address("2001:db8::1".parse().expect("an address"))
        );
        assert_eq!((single.connector, single.flags), (3, DESTINATION_FAIL_OPEN));
    }

    #[tokio::test]
    async fn more_ports_than_an_entry_holds_are_an_error() {
        let connectors: Vec<_> = (1..=5)
            .map(|n| {
                connector(
                    n,
                    "192.0.2.1",
                    5000 + u16::try_from(n).expect("small"),
                    FailurePolicy::Closed,
                )
            })
            .collect();
        let error = Destinations::new(1, &connectors, &Resolver::default())
            .resolve()
            .await
            .expect_err("five ports");
        assert!(
            error.to_string().contains("5 ports of 192.0.2.1"),
            "{error}"
        );
    }
}
