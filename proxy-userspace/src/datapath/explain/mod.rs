//! What the kernel would do with a connection, and why: from the same maps, through the same
//! decision. Reads only; who writes the maps does not notice.

mod asker;
mod report;
mod view;

pub use report::{
    Agent, Connection, Counts, Credential, Destination, Entry, LearnedName, Name, Programs, Report,
    Source, Workload, word,
};

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use proxy_common::{
    decision::{Caller, Decision, Dial, Facts, Reason, Transport, caller, decide},
    dns,
    maps::{self, DestinationKey, HostnameKey, LearnedKey},
};

use super::{DatapathError, ip_address, map_address};
use crate::workload::Lineage;
use asker::Asker;
use view::View;

/// What a workload dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, which the kernel knows only as far as the workload or the agent resolved it.
    Name(String),
}

/// The connection that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where to.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// TCP, or UDP.
    pub transport: Transport,
}

/// Tells what happens when a process in a cgroup asks for a connection, from what is pinned
/// below `base`.
pub fn explain(
    base: &Path,
    lineage: &Lineage,
    question: &Question,
) -> Result<Report, DatapathError> {
    let view = View::open(base)?;
    let asker = Asker::new(&view, lineage)?;
    let caller = caller(&asker, asker.settings());
    let attached = view.attached("connect4")?;
    let findings = Findings {
        lineage,
        question,
        attached: attached.into_iter().collect(),
        config: *asker.settings(),
        now_ns: asker.monotonic_ns(),
        boot_ns: asker.boot_ns(),
        caller,
        host: host(&asker, question, caller.as_ref()),
        addresses: addresses(&view, &asker, question, caller.as_ref())?,
    };
    asker.trouble()?;
    Ok(report::tell(&findings))
}

/// All that a report is made of.
struct Findings<'a> {
    lineage: &'a Lineage,
    question: &'a Question,
    /// Cgroups that the programs are attached to.
    attached: Vec<u64>,
    config: maps::Config,
    now_ns: u64,
    boot_ns: u64,
    caller: Option<Caller>,
    /// Entry of a host that is a name.
    host: Option<maps::Destination>,
    addresses: Vec<Found>,
}

/// An address that is dialled, and what the maps say of it.
struct Found {
    ip: IpAddr,
    given: bool,
    /// By its entry the agent resolved a host to it that is, or may be, that of the question.
    resolved: Option<Source>,
    learned: Option<maps::Learned>,
    /// Entries of the names that it was learned for, as far as they have some.
    names: Vec<(u64, Option<maps::Destination>)>,
    by_address: Option<maps::Destination>,
    credential: Option<maps::Credential>,
    decision: Decision,
}

/// What the caller's policy wants of a host that is a name.
fn host(
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
) -> Option<maps::Destination> {
    let Host::Name(name) = &question.host else {
        return None;
    };
    asker.hostname(HostnameKey {
        name: dns::hash(name)?,
        policy: caller?.workload.policy,
        pad: 0,
    })
}

/// The addresses that may be dialled, each with what becomes of it.
fn addresses(
    view: &View,
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
) -> Result<Vec<Found>, DatapathError> {
    let name = match &question.host {
        Host::Address(ip) => return Ok(vec![found(asker, question, caller, *ip, None)]),
        Host::Name(name) => name,
    };
    let (Some(caller), Some(hash)) = (caller, dns::hash(name)) else {
        return Ok(Vec::new());
    };
    let mut addresses: Vec<_> = view
        .learned_by(caller.cgroup_id)?
        .into_iter()
        .filter(|(_, learned)| learned.names.contains(&hash))
        .map(|(key, _)| (ip_address(key.addr), None))
        .collect();
    if let Some(host) = host(asker, question, Some(caller)) {
        for (key, entry) in view.destinations_of(caller.workload.policy)? {
            let Some(source) = resolved(&host, &entry) else {
                continue;
            };
            let ip = ip_address(key.addr);
            match addresses.iter_mut().find(|(known, _)| *known == ip) {
                Some((_, resolved)) => *resolved = Some(source),
                None => addresses.push((ip, Some(source))),
            }
        }
    }
    addresses.sort_unstable_by_key(|(ip, _)| *ip);
    Ok(addresses
        .into_iter()
        .map(|(ip, resolved)| found(asker, question, Some(caller), ip, resolved))
        .collect())
}

/// Whether an address may be one of a host, by what the policy wants of both: which address
/// belongs to which host only the agent knows.
///
/// Who wants the host wants all of its addresses. So an address that one Connector wants alone is
/// of no host that several want; one that several want may be of any host of theirs, and who they
/// are the maps do not say.
fn resolved(host: &maps::Destination, address: &maps::Destination) -> Option<Source> {
    match address.connector {
        0 => {
            let mut ports = host.ports.iter().filter(|port| **port != 0);
            ports
                .any(|port| address.ports.contains(port))
                .then_some(Source::Possible)
        }
        connector => (connector == host.connector).then_some(Source::Resolved),
    }
}

fn found(
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
    ip: IpAddr,
    resolved: Option<Source>,
) -> Found {
    let addr = map_address(ip);
    let decision = decide(
        asker,
        &Dial {
            addr,
            port: question.port,
            transport: question.transport,
        },
    );
    let policy = caller.map(|caller| caller.workload.policy);
    let by_address = policy.and_then(|policy| asker.destination(DestinationKey { policy, addr }));
    let learned = caller.and_then(|caller| {
        asker.learned(LearnedKey {
            workload: caller.cgroup_id,
            addr,
        })
    });
    let names = learned.iter().flat_map(|learned| learned.names);
    let names = names.take_while(|name| *name != 0).map(|name| {
        let entry = policy.and_then(|policy| {
            asker.hostname(HostnameKey {
                name,
                policy,
                pad: 0,
            })
        });
        (name, entry)
    });
    let connector = decision.wanted.map_or(0, |wanted| wanted.connector);
    Found {
        ip,
        given: question.host == Host::Address(ip),
        resolved,
        names: names.collect(),
        learned,
        by_address,
        credential: asker.credential(connector),
        decision,
    }
}

/// Where a redirected connection goes.
fn listener(ip: IpAddr, decision: &Decision) -> Option<SocketAddr> {
    let loopback: IpAddr = match ip {
        IpAddr::V4(_) => [127, 0, 0, 1].into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    (decision.reason == Reason::Redirected).then(|| SocketAddr::new(loopback, decision.via_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_several_connectors_want_may_be_of_the_host() {
        let entry = |connector, first, second| maps::Destination {
            connector,
            flags: 0,
            ports: [first, second, 0, 0],
        };
        let (one, several) = (entry(3, 443, 0), entry(0, 443, 5000));
        for (host, address, expected) in [
            (one, entry(3, 443, 0), Some(Source::Resolved)),
            (one, entry(4, 443, 0), None),
            (one, entry(0, 80, 443), Some(Source::Possible)),
            (one, entry(0, 80, 5000), None),
            (several, entry(0, 443, 5000), Some(Source::Possible)),
            (several, entry(0, 80, 0), None),
            (several, entry(3, 443, 0), None),
        ] {
            assert_eq!(resolved(&host, &address), expected, "{host:?}, {address:?}");
        }
    }
}
