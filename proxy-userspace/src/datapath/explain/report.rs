//! What is told: facts as they are in the maps, without the words around them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use proxy_common::{
    decision::{Reason, Transport, Verdict, is_alive},
    dns,
    maps::{
        self, CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, CREDENTIAL_USABLE, DESTINATION_FAIL_OPEN,
        POLICY_ANY, WORKLOAD_PENDING,
    },
};
use serde::Serialize;

use super::{Findings, Found, Host, Wish, listener};

/// The answer to a [`Question`](super::Question).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cgroup's directory.
    pub cgroup: PathBuf,
    /// Its id.
    pub cgroup_id: u64,
    /// Where the programs are attached.
    pub programs: Programs,
    /// The workload that the cgroup belongs to.
    pub workload: Option<Workload>,
    /// Whether Postern answers.
    pub agent: Agent,
    /// Host of the question.
    pub host: String,
    /// Port of the question.
    pub port: u16,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// The host, if it is a name.
    pub name: Option<Name>,
    /// What happens at each address of the host that the kernel knows.
    pub connections: Vec<Connection>,
}

/// Where the programs are attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Programs {
    /// Id of the cgroup through which they reach the one of the question.
    pub reach_through: Option<u64>,
    /// All cgroups that they are attached to.
    pub attached_to: Vec<u64>,
    /// Levels of the tree at which they look for workloads.
    pub levels: Vec<u8>,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Id of its own cgroup.
    pub cgroup_id: u64,
    /// Depth of that in the tree.
    pub level: u8,
    /// How many levels the cgroup of the question is below it.
    pub below: usize,
    /// It is known, and not served yet.
    pub pending: bool,
    /// Number of its policy; none if it is judged by all policies, until its own is known.
    pub policy: Option<u32>,
    /// Its listeners on loopback.
    pub listeners: Vec<SocketAddr>,
}

/// The agent, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// Age of its last sign of life; none if it said that it does not serve.
    pub heartbeat_age_ms: Option<u64>,
    /// Age from which it counts as gone.
    pub grace_ms: u64,
    /// Whether it does not.
    pub answers: bool,
}

/// A host that is a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// Its key in `HOSTNAMES`; none if no DNS name can be meant.
    pub hash: Option<String>,
    /// What the policy wants of it, whatever its addresses.
    pub wanted: Vec<Entry>,
}

/// What a policy wants of a port of an address or host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Port.
    pub port: u16,
    /// Number of the Connector; none if there are several.
    pub connector: Option<u32>,
    /// Left alone while Postern does not answer.
    pub fails_open: bool,
}

/// One address, and what happens there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Address.
    pub address: IpAddr,
    /// How it is known to be one of the host.
    pub known: Vec<Source>,
    /// What is wanted of it.
    pub destination: Destination,
    /// State of the credential, when it is that of one Connector.
    pub credential: Option<Credential>,
    /// `leave-alone`, `redirect` or `refuse`.
    pub verdict: &'static str,
    /// Why, in one word.
    pub reason: &'static str,
    /// The listener that it goes to.
    pub listener: Option<SocketAddr>,
}

/// How an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It is what was asked about.
    Given,
    /// From a DNS answer that the workload got.
    Learned {
        /// Since it was last told or dialled.
        ms_ago: u64,
    },
    /// The agent resolved a host of the same Connector to it.
    Resolved,
    /// It resolved a host of several Connectors to it, which may be this one.
    Possible,
}

/// What is wanted of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// By its entries in `DESTINATIONS`, of all ports.
    pub by_address: Vec<Entry>,
    /// By the names that the workload learned it for.
    pub by_names: Vec<LearnedName>,
    /// What of it counts for the port.
    pub counts: Option<Counts>,
}

/// What all entries that count have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Number of the Connector; none if there are several.
    pub connector: Option<u32>,
    /// All fail open.
    pub fails_open: bool,
}

/// A name that an address was learned for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LearnedName {
    /// Its key in `HOSTNAMES`.
    pub hash: String,
    /// It is the host of the question.
    pub is_host: bool,
    /// What the policy wants of it.
    pub wanted: Vec<Entry>,
}

/// The binding of a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// Number of the Connector.
    pub connector: u32,
    /// How often it was replaced.
    pub generation: u64,
    /// Which version of the Secret it is.
    pub revision: String,
    /// `usable`, `refused` or `switched-off`.
    pub state: &'static str,
    /// Until its end; negative when that is over, none if it has none.
    pub ends_in_ms: Option<i64>,
}

/// Puts together what was found.
pub(super) fn tell(findings: &Findings<'_>) -> Report {
    let Findings {
        lineage,
        question,
        attached,
        config,
        ..
    } = findings;
    let reach_through = lineage.ids().iter().rev().find(|id| attached.contains(id));
    let name = match &question.host {
        Host::Address(_) => None,
        Host::Name(name) => Some(Name {
            hash: dns::hash(name).map(hex),
            wanted: entries(&findings.host),
        }),
    };
    let levels = config.levels.iter().take_while(|level| **level != 0);
    Report {
        cgroup: lineage.path.clone(),
        cgroup_id: lineage.id(),
        programs: Programs {
            reach_through: reach_through.copied(),
            attached_to: attached.clone(),
            levels: levels.copied().collect(),
        },
        workload: workload(findings),
        agent: agent(config, findings.now_ns),
        host: match &question.host {
            Host::Address(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        },
        port: question.port,
        transport: match question.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        },
        name,
        connections: findings
            .addresses
            .iter()
            .map(|found| connection(findings, found, reach_through.is_some()))
            .collect(),
    }
}

fn workload(findings: &Findings<'_>) -> Option<Workload> {
    let caller = findings.caller?;
    let maps::Workload {
        policy,
        port_v4,
        port_v6,
        flags,
        ..
    } = caller.workload;
    let ids = findings.lineage.ids();
    let place = ids.iter().position(|id| *id == caller.cgroup_id)?;
    let listeners = [
        SocketAddr::from(([127, 0, 0, 1], port_v4)),
        SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port_v6)),
    ];
    Some(Workload {
        cgroup_id: caller.cgroup_id,
        level: caller.level,
        below: ids.len() - 1 - place,
        pending: flags & WORKLOAD_PENDING != 0,
        policy: (policy != POLICY_ANY).then_some(policy),
        listeners: listeners
            .into_iter()
            .filter(|listener| listener.port() != 0)
            .collect(),
    })
}

fn agent(config: &maps::Config, now_ns: u64) -> Agent {
    let age_ns = now_ns.saturating_sub(config.heartbeat_ns);
    Agent {
        heartbeat_age_ms: (config.heartbeat_ns != 0).then_some(milliseconds(age_ns)),
        grace_ms: milliseconds(config.grace_ns),
        answers: is_alive(config, now_ns),
    }
}

fn connection(findings: &Findings<'_>, found: &Found, is_reached: bool) -> Connection {
    let decision = &found.decision;
    let (verdict, reason) = if is_reached {
        (decision.reason.verdict(), word(decision.reason))
    } else {
        (Verdict::LeaveAlone, "not-attached")
    };
    let mut known = Vec::new();
    if found.given {
        known.push(Source::Given);
    }
    if let Some(learned) = found.learned {
        let age_ns = findings.now_ns.saturating_sub(learned.seen_ns);
        known.push(Source::Learned {
            ms_ago: milliseconds(age_ns),
        });
    }
    known.extend(found.resolved);
    let host = match &findings.question.host {
        Host::Name(name) => dns::hash(name),
        Host::Address(_) => None,
    };
    Connection {
        address: found.ip,
        known,
        destination: Destination {
            by_address: entries(&found.by_address),
            by_names: found
                .names
                .iter()
                .map(|(name, wanted)| LearnedName {
                    hash: hex(*name),
                    is_host: host == Some(*name),
                    wanted: entries(wanted),
                })
                .collect(),
            counts: decision.wanted.map(|wanted| Counts {
                connector: several(wanted.connector),
                fails_open: wanted.fails_open,
            }),
        },
        credential: credential(found, findings.boot_ns),
        verdict: match verdict {
            Verdict::LeaveAlone => "leave-alone",
            Verdict::Redirect => "redirect",
            Verdict::Refuse => "refuse",
        },
        reason,
        listener: listener(found.ip, decision).filter(|_| is_reached),
    }
}

fn credential(found: &Found, boot_ns: u64) -> Option<Credential> {
    let connector = several(found.decision.wanted?.connector)?;
    let credential = found.credential?;
    let until = i128::from(credential.not_after_ns) - i128::from(boot_ns);
    Some(Credential {
        connector,
        generation: credential.generation,
        revision: hex(credential.revision),
        state: match credential.state {
            CREDENTIAL_USABLE => "usable",
            CREDENTIAL_BYPASS => "switched-off",
            CREDENTIAL_REFUSE => "refused",
            _ => "unknown",
        },
        ends_in_ms: (credential.not_after_ns != 0)
            .then(|| i64::try_from(until / 1_000_000).unwrap_or(i64::MAX)),
    })
}

fn entries(wishes: &[Wish]) -> Vec<Entry> {
    let entries = wishes.iter().map(|(port, wanted)| Entry {
        port: *port,
        connector: several(wanted.connector),
        fails_open: wanted.flags & DESTINATION_FAIL_OPEN != 0,
    });
    entries.collect()
}

/// The maps say 0 when several Connectors share something.
fn several(connector: u32) -> Option<u32> {
    (connector != 0).then_some(connector)
}

fn milliseconds(ns: u64) -> u64 {
    ns / 1_000_000
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// One word for each reason, for programs that read.
pub const fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::NotEnrolled => "not-enrolled",
        Reason::Dns => "dns",
        Reason::Unwanted => "unwanted",
        Reason::Listener => "listener",
        Reason::SwitchedOff => "switched-off",
        Reason::PendingOpen => "pending-open",
        Reason::StaleOpen => "stale-open",
        Reason::Pending => "pending",
        Reason::CredentialUnknown => "credential-unknown",
        Reason::CredentialRefused => "credential-refused",
        Reason::CredentialExpired => "credential-expired",
        Reason::Stale => "stale",
        Reason::Udp => "udp",
        Reason::NoListener => "no-listener",
        Reason::BoundToDevice => "bound-to-device",
        Reason::NoMemory => "no-memory",
        Reason::Redirected => "redirected",
    }
}
