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
    /// Resolved by the agent: it has an entry for the Connector that the name belongs to.
    resolved: bool,
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
        Host::Address(ip) => return Ok(vec![found(asker, question, caller, *ip, false)]),
        Host::Name(name) => name,
    };
    let (Some(caller), Some(hash)) = (caller, dns::hash(name)) else {
        return Ok(Vec::new());
    };
    let mut addresses: Vec<_> = view
        .learned_by(caller.cgroup_id)?
        .into_iter()
        .filter(|(_, learned)| learned.names.contains(&hash))
        .map(|(key, _)| (ip_address(key.addr), false))
        .collect();
    let entry = host(asker, question, Some(caller));
    let connector = entry.map_or(0, |entry| entry.connector);
    // Which address belongs to which host only the agent knows.
    if connector != 0 {
        for (key, entry) in view.destinations_of(caller.workload.policy)? {
            if entry.connector != connector {
                continue;
            }
            let ip = ip_address(key.addr);
            match addresses.iter_mut().find(|(known, _)| *known == ip) {
                Some((_, resolved)) => *resolved = true,
                None => addresses.push((ip, true)),
            }
        }
    }
    addresses.sort_unstable();
    Ok(addresses
        .into_iter()
        .map(|(ip, resolved)| found(asker, question, Some(caller), ip, resolved))
        .collect())
}

fn found(
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
    ip: IpAddr,
    resolved: bool,
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
