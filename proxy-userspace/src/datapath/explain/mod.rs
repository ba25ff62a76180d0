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
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use proxy_common::{
    decision::{Caller, Decision, Dial, Facts, Reason, Transport, caller, decide},
    dns,
    maps::{self, LearnedKey, WHOLE_HOST},
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
    let wishes = match &caller {
        Some(caller) => Wishes::read(&view, caller.workload.policy)?,
        None => Wishes::default(),
    };
    let findings = Findings {
        lineage,
        question,
        attached: attached.into_iter().collect(),
        config: *asker.settings(),
        now_ns: asker.monotonic_ns(),
        boot_ns: asker.boot_ns(),
        caller,
        host: match &question.host {
            Host::Address(_) => Vec::new(),
            Host::Name(name) => dns::hash(name).map_or_else(Vec::new, |name| wishes.of_name(name)),
        },
        addresses: addresses(&view, &asker, question, caller.as_ref(), &wishes)?,
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
    /// What is wanted of a host that is a name.
    host: Vec<Wish>,
    addresses: Vec<Found>,
}

/// An address that is dialled, and what the maps say of it.
struct Found {
    ip: IpAddr,
    given: bool,
    /// By its entry the agent resolved a host to it that is, or may be, that of the question.
    resolved: Option<Source>,
    learned: Option<maps::Learned>,
    /// The names that it was learned for, and what is wanted of them.
    names: Vec<(u64, Vec<Wish>)>,
    by_address: Vec<Wish>,
    credential: Option<maps::Credential>,
    decision: Decision,
}

/// A port, and what the policy wants of it.
type Wish = (u16, maps::Destination);

/// All that the caller's policy wants. The decision looks up the one port that is dialled; here
/// the others are told as well.
#[derive(Default)]
struct Wishes {
    addresses: BTreeMap<[u8; 16], Vec<Wish>>,
    names: BTreeMap<u64, Vec<Wish>>,
}

impl Wishes {
    fn read(view: &View, policy: u32) -> Result<Self, DatapathError> {
        let mut wishes = Self::default();
        for (key, value) in view.destinations_of(policy)? {
            let of_address = wishes.addresses.entry(key.addr).or_default();
            of_address.push((key.port, value));
        }
        for (key, value) in view.hostnames_of(policy)? {
            if key.port != WHOLE_HOST {
                let of_name = wishes.names.entry(key.name).or_default();
                of_name.push((key.port, value));
            }
        }
        let all = wishes.addresses.values_mut();
        for wishes in all.chain(wishes.names.values_mut()) {
            wishes.sort_unstable_by_key(|(port, _)| *port);
        }
        Ok(wishes)
    }

    fn of_address(&self, addr: [u8; 16]) -> Vec<Wish> {
        self.addresses.get(&addr).cloned().unwrap_or_default()
    }

    fn of_name(&self, name: u64) -> Vec<Wish> {
        self.names.get(&name).cloned().unwrap_or_default()
    }
}

/// The addresses that may be dialled, each with what becomes of it.
fn addresses(
    view: &View,
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
    wishes: &Wishes,
) -> Result<Vec<Found>, DatapathError> {
    let found = |ip, resolved| found(asker, question, caller, wishes, ip, resolved);
    let name = match &question.host {
        Host::Address(ip) => return Ok(vec![found(*ip, None)]),
        Host::Name(name) => name,
    };
    let (Some(caller), Some(hash)) = (caller, dns::hash(name)) else {
        return Ok(Vec::new());
    };
    let mut addresses: BTreeMap<_, _> = view
        .learned_by(caller.cgroup_id)?
        .into_iter()
        .filter(|(_, learned)| learned.names.contains(&hash))
        .map(|(key, _)| (ip_address(key.addr), None))
        .collect();
    let host = wishes.of_name(hash);
    for (addr, wanted) in &wishes.addresses {
        if let Some(source) = resolved(&host, wanted) {
            addresses.insert(ip_address(*addr), Some(source));
        }
    }
    let addresses = addresses.into_iter();
    Ok(addresses.map(|(ip, source)| found(ip, source)).collect())
}

/// Whether an address may be one of a host, by what the policy wants of both: which address
/// belongs to which host only the agent knows.
///
/// Who wants a port of the host wants it of all its addresses. So an address of which nobody wants
/// that port, or one other Connector alone, is none of the host; one of which several want it may
/// be, and who they are the maps do not say.
fn resolved(host: &[Wish], address: &[Wish]) -> Option<Source> {
    let mut source = None;
    for (port, wanted) in host {
        let (_, there) = address.iter().find(|(other, _)| other == port)?;
        match there.connector {
            0 => source = source.or(Some(Source::Possible)),
            connector if connector == wanted.connector => source = Some(Source::Resolved),
            _ => return None,
        }
    }
    source
}

fn found(
    asker: &Asker<'_>,
    question: &Question,
    caller: Option<&Caller>,
    wishes: &Wishes,
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
    let learned = caller.and_then(|caller| {
        asker.learned(LearnedKey {
            workload: caller.cgroup_id,
            addr,
        })
    });
    let names = learned.iter().flat_map(|learned| learned.names);
    let names = names.take_while(|name| *name != 0);
    let names = names.map(|name| (name, wishes.of_name(name)));
    let connector = decision.wanted.map_or(0, |wanted| wanted.connector);
    Found {
        ip,
        given: question.host == Host::Address(ip),
        resolved,
        names: names.collect(),
        learned,
        by_address: wishes.of_address(addr),
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
        let wish = |port, connector| {
            let flags = 0;
            (port, maps::Destination { connector, flags })
        };
        let (one, several) = (vec![wish(443, 3)], vec![wish(443, 3), wish(5000, 0)]);
        for (host, address, expected) in [
            (&one, vec![wish(443, 3)], Some(Source::Resolved)),
            (
                &one,
                vec![wish(80, 4), wish(443, 3)],
                Some(Source::Resolved),
            ),
            (&one, vec![wish(443, 4)], None),
            (&one, vec![wish(80, 3)], None),
            (
                &one,
                vec![wish(80, 4), wish(443, 0)],
                Some(Source::Possible),
            ),
            (&several, several.clone(), Some(Source::Resolved)),
            (
                &several,
                vec![wish(443, 0), wish(5000, 0)],
                Some(Source::Possible),
            ),
            (&several, vec![wish(443, 3), wish(5000, 5)], None),
            (&several, one.clone(), None),
            (&Vec::new(), one.clone(), None),
        ] {
            assert_eq!(resolved(host, &address), expected, "{host:?}, {address:?}");
        }
    }
}
