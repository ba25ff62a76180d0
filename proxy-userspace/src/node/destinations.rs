//! From Connectors to the addresses that the kernel redirects, and the hosts whose addresses it
//! learns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::{
    dns,
    maps::{
        DESTINATION_FAIL_OPEN, Destination, DestinationKey, HostnameKey, POLICY_ANY, WHOLE_HOST,
    },
};

use super::{ApiServer, Granted};
use crate::{
    datapath::map_address,
    state::{Connector, ConnectorId, FailurePolicy},
    upstream::Resolver,
    workload::PolicyId,
};

/// The value of [`WHOLE_HOST`].
const ONLY_THERE: Destination = Destination {
    connector: 0,
    flags: 0,
};

/// What Connectors want of one port of an address or host.
#[derive(Debug, Default)]
struct Wanted {
    connectors: BTreeSet<ConnectorId>,
    closed: bool,
}

/// What the kernel is to redirect.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The map's entries, one for each port of each address of each policy.
    pub(super) addresses: Vec<(DestinationKey, Destination)>,
    /// The same for hosts that are names, whatever their addresses; each host begins with
    /// [`WHOLE_HOST`].
    pub(super) hostnames: Vec<(HostnameKey, Destination)>,
}

impl Entries {
    /// Leaves out what there is no room for, and returns how many entries of which policies
    /// that are. All policies have the same right to the room, and what one does not need is
    /// shared by the others. The smallest come first.
    ///
    /// The union of all policies gets what they leave: it is for the moment in which a pod is
    /// not classified yet, and must not cost any policy its place.
    pub(super) fn share(&mut self, room: usize) -> BTreeMap<PolicyId, usize> {
        let mut policies: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (key, value) in self.addresses.drain(..) {
            policies.entry(key.policy).or_default().push((key, value));
        }
        let union = policies.remove(&POLICY_ANY).unwrap_or_default();
        let mut policies = Vec::from_iter(policies);
        policies.sort_by_key(|(_, entries)| entries.len());
        let mut left_out = BTreeMap::new();
        let mut others = policies.len();
        for (policy, mut entries) in policies {
            let share = (room - self.addresses.len()) / others;
            others -= 1;
            if entries.len() > share {
                left_out.insert(PolicyId(policy), entries.len() - share);
                entries.truncate(share);
            }
            self.addresses.append(&mut entries);
        }
        let rest = room - self.addresses.len();
        if union.len() > rest {
            left_out.insert(PolicyId(POLICY_ANY), union.len() - rest);
        }
        self.addresses.extend(union.into_iter().take(rest));
        left_out
    }

    /// Adds what any of the policies wants, behind everything else.
    ///
    /// Whoever may make a Connector may name the API server in it, and is to keep no others from
    /// it: new pods of the whole node, the controller's own among them, would wait in vain.
    pub(super) fn add_union<'a>(
        &mut self,
        policies: impl IntoIterator<Item = (PolicyId, &'a Vec<Granted>)>,
        resolver: &Resolver,
        without_place: &BTreeSet<ConnectorId>,
        api_server: &ApiServer,
    ) {
        // Each Connector once, however many policies grant it.
        let granted: BTreeMap<_, _> = policies
            .into_iter()
            .flat_map(|(_, granted)| granted)
            .map(|granted| (granted.connector.id, granted))
            .collect();
        let mut union = Self::default();
        let granted = granted.into_values();
        let is_spared = |host: &str| api_server.is(host, resolver);
        let policy = PolicyId(POLICY_ANY);
        union.add(policy, granted, resolver, without_place, is_spared);
        self.addresses.append(&mut union.addresses);
        self.hostnames.append(&mut union.hostnames);
    }

    fn add<'a>(
        &mut self,
        policy: PolicyId,
        granted: impl IntoIterator<Item = &'a Granted>,
        resolver: &Resolver,
        without_place: &BTreeSet<ConnectorId>,
        is_spared: impl Fn(&str) -> bool,
    ) {
        let mut by_address: BTreeMap<(IpAddr, u16), Wanted> = BTreeMap::new();
        let mut by_name: BTreeMap<u64, BTreeMap<u16, Wanted>> = BTreeMap::new();
        for Granted { connector, .. } in granted {
            let addresses = connector.addresses();
            for address in addresses.filter(|it| !is_spared(&it.host)) {
                for ip in resolver.known(&address.host) {
                    let entry = by_address.entry((ip, address.port));
                    entry.or_default().add(connector);
                }
                let is_name = address.host.parse::<IpAddr>().is_err();
                // What is no DNS name is in no DNS answer.
                if let Some(name) = dns::hash(&address.host).filter(|_| is_name) {
                    let ports = by_name.entry(name).or_default();
                    ports.entry(address.port).or_default().add(connector);
                }
            }
        }
        let policy = policy.0;
        for ((ip, port), wanted) in by_address {
            let key = DestinationKey {
                policy,
                addr: map_address(ip),
                port,
                pad: 0,
            };
            self.addresses.push((key, wanted.entry(without_place)));
        }
        for (name, ports) in by_name {
            let key = |port| HostnameKey {
                name,
                policy,
                port,
                pad: 0,
            };
            self.hostnames.push((key(WHOLE_HOST), ONLY_THERE));
            let entries = ports.into_iter();
            let entries = entries.map(|(port, wanted)| (key(port), wanted.entry(without_place)));
            self.hostnames.extend(entries);
        }
    }
}

/// The entries for all policies, from the addresses that are known for each host.
///
/// Connectors without a place among the kernel's credentials are left to the proxy, like those
/// that share a port of an address.
pub(super) fn entries<'a>(
    policies: impl IntoIterator<Item = (PolicyId, &'a Vec<Granted>)>,
    resolver: &Resolver,
    without_place: &BTreeSet<ConnectorId>,
) -> Entries {
    let mut all = Entries::default();
    for (policy, granted) in policies {
        all.add(policy, granted, resolver, without_place, |_| false);
    }
    all
}

impl Wanted {
    fn add(&mut self, connector: &Connector) {
        self.connectors.insert(connector.id);
        self.closed |= connector.failure_policy == FailurePolicy::Closed;
    }

    fn entry(&self, without_place: &BTreeSet<ConnectorId>) -> Destination {
        let mut connectors = self.connectors.iter();
        let connector = match (connectors.next(), connectors.next()) {
            (Some(only), None) if !without_place.contains(only) => only.0,
            _ => 0,
        };
        Destination {
            connector,
            flags: if self.closed {
                0
            } else {
                DESTINATION_FAIL_OPEN
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        node::Binding,
        state::{Address, ClientAuthorization, OnUntrustedCa, Protocol, Scheme},
    };

    fn connector(id: u32, host: &str, port: u16, failure_policy: FailurePolicy) -> Granted {
        let connector = Arc::new(Connector {
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
            on_untrusted_ca: OnUntrustedCa::Fail,
            extra_roots: Arc::default(),
        });
        Granted {
            connector,
            binding: Binding::of_file(),
        }
    }

    fn entries_of(policies: &BTreeMap<PolicyId, Vec<Granted>>) -> Entries {
        entries(
            policies.iter().map(|(policy, granted)| (*policy, granted)),
            &Resolver::default(),
            &BTreeSet::new(),
        )
    }

    fn addr(ip: &str) -> [u8; 16] {
        map_address(ip.parse().expect("an address"))
    }

    /// Address, port, and what is wanted there.
    type Found = ([u8; 16], u16, u32, u32);

    fn of_policy(entries: &Entries, policy: u32) -> Vec<Found> {
        let of_policy = entries.addresses.iter();
        of_policy
            .filter(|(key, _)| key.policy == policy)
            .map(|(key, value)| (key.addr, key.port, value.connector, value.flags))
            .collect()
    }

    fn of_name(entries: &Entries, policy: u32, host: &str) -> Vec<(u16, u32, u32)> {
        let name = dns::hash(host).expect("a name");
        let of_name = entries.hostnames.iter();
        of_name
            .filter(|(key, _)| (key.policy, key.name) == (policy, name))
            .map(|(key, value)| (key.port, value.connector, value.flags))
            .collect()
    }

    #[test]
    fn each_port_of_an_address_has_its_connectors() {
        let connectors = vec![
            connector(1, "192.0.2.1", 443, FailurePolicy::Open),
            connector(2, "192.0.2.1", 5000, FailurePolicy::Closed),
            connector(3, "192.0.2.1", 443, FailurePolicy::Closed),
            connector(4, "2001:db8::1", 443, FailurePolicy::Open),
        ];
        let entries = entries_of(&BTreeMap::from([(PolicyId(7), connectors)]));
        let expected = [
            (addr("192.0.2.1"), 443, 0, 0),
            (addr("192.0.2.1"), 5000, 2, 0),
            (addr("2001:db8::1"), 443, 4, DESTINATION_FAIL_OPEN),
        ];
        assert_eq!(of_policy(&entries, 7), expected);
    }

    #[test]
    fn an_address_has_as_many_ports_as_connectors_want() {
        let connectors = (1..=100)
            .zip(5001..)
            .map(|(id, port)| connector(id, "192.0.2.1", port, FailurePolicy::Closed))
            .collect();
        let entries = entries_of(&BTreeMap::from([(PolicyId(1), connectors)]));
        let found: Vec<_> = of_policy(&entries, 1)
            .into_iter()
            .map(|(_, port, connector, _)| (port, connector))
            .collect();
        let expected: Vec<_> = (5001..=5100).zip(1..=100).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn policies_have_entries_of_their_own() {
        use FailurePolicy::Closed;
        let policies = BTreeMap::from([
            (PolicyId(1), vec![connector(1, "192.0.2.1", 443, Closed)]),
            (PolicyId(2), vec![connector(2, "192.0.2.1", 443, Closed)]),
        ]);
        let entries = entries_of(&policies);
        assert_eq!(of_policy(&entries, 1), [(addr("192.0.2.1"), 443, 1, 0)]);
        assert_eq!(of_policy(&entries, 2), [(addr("192.0.2.1"), 443, 2, 0)]);
    }

    #[test]
    fn a_connector_without_a_place_is_left_to_the_proxy() {
        let granted = vec![connector(1, "192.0.2.1", 443, FailurePolicy::Closed)];
        let without_place = BTreeSet::from([ConnectorId(1)]);
        let policies = [(PolicyId(1), &granted)];
        let Entries {
            addresses: entries, ..
        } = entries(policies, &Resolver::default(), &without_place);
        assert_eq!(entries[0].1.connector, 0);
    }

    #[test]
    fn a_large_policy_leaves_room_for_the_others() {
        let sizes = [(1, 100), (2, 1), (3, 40), (4, 0), (5, 30)];
        let policies = sizes.map(|(policy, size)| {
            let granted = (0..size)
                .map(|n| connector(n, &format!("192.0.2.{n}"), 443, FailurePolicy::Closed))
                .collect();
            (PolicyId(policy), granted)
        });
        let policies = BTreeMap::from(policies);
        let found = |room| {
            let mut entries = entries_of(&policies);
            let left_out = entries.share(room);
            assert!(entries.addresses.len() <= room);
            let mut kept = BTreeMap::new();
            for (key, _) in &entries.addresses {
                *kept.entry(key.policy).or_insert(0) += 1;
            }
            (kept, left_out)
        };
        let (kept, left_out) = found(1000);
        assert_eq!(kept, BTreeMap::from([(1, 100), (2, 1), (3, 40), (5, 30)]));
        assert_eq!(left_out, BTreeMap::new());
        let (kept, left_out) = found(101);
        assert_eq!(kept, BTreeMap::from([(1, 35), (2, 1), (3, 35), (5, 30)]));
        assert_eq!(
            left_out,
            BTreeMap::from([(PolicyId(1), 65), (PolicyId(3), 5)])
        );
    }

    #[test]
    fn the_union_of_all_policies_gets_what_they_leave() {
        use FailurePolicy::{Closed, Open};
        let shared = connector(1, "192.0.2.1", 443, Open);
        let policies = BTreeMap::from([
            (
                PolicyId(1),
                vec![shared.clone(), connector(2, "192.0.2.2", 443, Open)],
            ),
            (
                PolicyId(2),
                vec![
                    shared,
                    connector(3, "192.0.2.2", 5000, Closed),
                    connector(4, "git.example.com", 443, Open),
                ],
            ),
        ]);
        let found = |room| {
            let mut entries = entries_of(&policies);
            let all = policies.iter().map(|(policy, granted)| (*policy, granted));
            let (resolver, places) = (Resolver::default(), BTreeSet::new());
            entries.add_union(all, &resolver, &places, &ApiServer::default());
            let left_out = entries.share(room);
            (entries, left_out)
        };
        let (entries, left_out) = found(7);
        assert_eq!(left_out, BTreeMap::new());
        // One Connector that two policies grant is one Connector.
        let all = [
            (addr("192.0.2.1"), 443, 1, DESTINATION_FAIL_OPEN),
            (addr("192.0.2.2"), 443, 2, DESTINATION_FAIL_OPEN),
            (addr("192.0.2.2"), 5000, 3, 0),
        ];
        assert_eq!(of_policy(&entries, POLICY_ANY), all);
        let host = [(WHOLE_HOST, 0, 0), (443, 4, DESTINATION_FAIL_OPEN)];
        assert_eq!(of_name(&entries, POLICY_ANY, "git.example.com"), host);

        let (entries, left_out) = found(6);
        assert_eq!(left_out, BTreeMap::from([(PolicyId(POLICY_ANY), 1)]));
        assert_eq!(entries.addresses.len(), 6);
        assert_eq!(of_policy(&entries, POLICY_ANY), all[..2]);
    }

    #[tokio::test]
    async fn no_pod_is_kept_from_the_api_server_by_the_union() {
        let files = testkit::TempDir::new("hosts").expect("a folder");
        let hosts = "10.96.0.1 alias.example.com\n192.0.2.9 both.example.com\n\
                     10.96.0.1 both.example.com\n192.0.2.8 registry.example.com\n";
        let hosts = files.write("hosts", hosts).expect("it is written");
        let resolver = Resolver::with_files(files.join("none"), hosts, 53);
        let names = [
            "kubernetes.default.svc",
            "alias.example.com",
            "both.example.com",
            "10.96.0.1",
            "registry.example.com",
        ];
        for name in [names[1], names[2], names[4]] {
            resolver.resolve(name).await.expect("it is in the file");
        }
        let connectors = names.into_iter().zip(1..);
        let connectors = connectors.map(|(host, id)| connector(id, host, 443, FailurePolicy::Open));
        let policies = BTreeMap::from([(PolicyId(1), connectors.collect())]);
        let all = || policies.iter().map(|(policy, granted)| (*policy, granted));
        let mut entries = entries(all(), &resolver, &BTreeSet::new());
        // Who is granted such a Connector uses it all the same.
        assert!(!entries.addresses.is_empty());
        assert_eq!(entries.hostnames.len(), 2 * 4);
        (entries.addresses, entries.hostnames) = Default::default();

        let api_server = ApiServer::at("10.96.0.1");
        entries.add_union(all(), &resolver, &BTreeSet::new(), &api_server);
        let [(key, value)] = entries.addresses.as_slice() else {
            panic!("{:?}", entries.addresses);
        };
        assert_eq!((key.addr, value.connector), (addr("192.0.2.8"), 5));
        let host = [(WHOLE_HOST, 0, 0), (443, 5, DESTINATION_FAIL_OPEN)];
        let found = of_name(&entries, POLICY_ANY, "registry.example.com");
        assert_eq!((entries.hostnames.len(), found.as_slice()), (2, &host[..]));
    }

    #[test]
    fn hosts_that_are_names_are_learned_before_they_resolve() {
        let connectors = vec![
            connector(1, "registry.example.com", 443, FailurePolicy::Closed),
            connector(2, "registry.example.com", 5000, FailurePolicy::Open),
            connector(3, "git.example.com", 443, FailurePolicy::Open),
            connector(4, "192.0.2.1", 443, FailurePolicy::Closed),
        ];
        let found = entries_of(&BTreeMap::from([(PolicyId(7), connectors)]));
        assert_eq!(found.addresses.len(), 1, "the address");
        assert_eq!(
            of_name(&found, 7, "registry.example.com"),
            [
                (WHOLE_HOST, 0, 0),
                (443, 1, 0),
                (5000, 2, DESTINATION_FAIL_OPEN)
            ]
        );
        assert_eq!(
            of_name(&found, 7, "git.example.com"),
            [(WHOLE_HOST, 0, 0), (443, 3, DESTINATION_FAIL_OPEN)]
        );
        assert_eq!(found.hostnames.len(), 5);
    }
}
