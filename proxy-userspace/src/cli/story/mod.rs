//! A report of `postern explain` in words, in the order in which the kernel looks at things.

use std::fmt::Write;

use crate::datapath::explain::{
    Agent, Connection, Credential, Entry, LearnedName, Programs, Report, Source, Workload,
};

/// The report as text.
pub(super) fn story(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |label: &str, what: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{label:<12}{what}");
    };
    line(
        "cgroup",
        &format!("{}, id {}", report.cgroup.display(), report.cgroup_id),
    );
    line("programs", &programs(&report.programs));
    line("workload", &workload(report));
    line("agent", &agent(&report.agent));
    if let Some(name) = &report.name {
        let wanted = wanted(&name.wanted)
            .unwrap_or_else(|| "no host of a Connector that this workload is granted".into());
        line("host", &format!("{}: {wanted}", report.host));
    }
    if report.connections.is_empty() {
        let _ = writeln!(text, "\n{}", nowhere(report));
    }
    for connection in &report.connections {
        tell(&mut text, report, connection);
    }
    text
}

fn tell(text: &mut String, report: &Report, connection: &Connection) {
    let to = std::net::SocketAddr::new(connection.address, report.port);
    let _ = writeln!(text, "\n{} to {to}", report.transport.to_uppercase());
    let mut line = |label: &str, what: &str| {
        let _ = writeln!(text, "  {label:<12}{what}");
    };
    for source in &connection.known {
        match source {
            Source::Given => {}
            Source::Learned { ms_ago } => line(
                "known",
                &format!(
                    "from a DNS answer of the workload, told or dialled {} ago",
                    duration(*ms_ago)
                ),
            ),
            Source::Resolved => line("known", "from the agent, for a host of this Connector"),
            Source::Possible => line(
                "known",
                "from the agent, for several Connectors: it may be one of the host's",
            ),
        }
    }
    if report.workload.is_some() {
        let destination = &connection.destination;
        let by_address = wanted(&destination.by_address);
        let by_address = by_address.as_deref();
        line("address", by_address.unwrap_or("no address of a Connector"));
        for name in &destination.by_names {
            line("name", &by_name(name, &report.host));
        }
    }
    if let Some(credential) = &connection.credential {
        line("credential", &state(credential));
    }
    let (because, advice) = because(connection.reason);
    let verdict = match (connection.verdict, connection.listener) {
        ("redirect", Some(listener)) => format!("redirected to {listener}"),
        ("refuse", _) => "refused".into(),
        _ => "left alone".into(),
    };
    line("verdict", &format!("{verdict}: {because}"));
    if let Some(advice) = advice {
        line("", advice);
    }
}

fn programs(programs: &Programs) -> String {
    match (programs.reach_through, programs.attached_to.as_slice()) {
        (Some(id), _) => format!("attached to it or above, to the cgroup with id {id}"),
        (None, []) => "attached nowhere".into(),
        (None, ids) => format!(
            "not attached to it nor above, only to the cgroups with ids {}",
            list(ids)
        ),
    }
}

fn workload(report: &Report) -> String {
    let Some(Workload {
        cgroup_id,
        level,
        below,
        pending,
        policy,
        listeners,
    }) = &report.workload
    else {
        return format!(
            "none: neither it nor a cgroup above it is one, at levels {}",
            list(&report.programs.levels)
        );
    };
    let place = match below {
        0 => "the cgroup itself".to_owned(),
        1 => "the cgroup right above".to_owned(),
        n => format!("the cgroup {n} levels above"),
    };
    let policy = match policy {
        Some(policy) => format!("policy {policy}"),
        None => "no policy known yet, so judged by all".to_owned(),
    };
    let state = if *pending {
        format!("pending, {policy}")
    } else if listeners.is_empty() {
        format!("enrolled, {policy}, without a listener")
    } else {
        format!("enrolled, {policy}, listeners {}", list(listeners))
    };
    format!("{place}, id {cgroup_id} at level {level}: {state}")
}

fn agent(agent: &Agent) -> String {
    let grace = duration(agent.grace_ms);
    match (agent.answers, agent.heartbeat_age_ms) {
        (true, Some(age)) => format!(
            "answers: its last sign of life is {} old, of {grace} at most",
            duration(age)
        ),
        (false, Some(age)) => format!(
            "does not answer: its last sign of life is {} old, more than {grace}",
            duration(age)
        ),
        (_, None) => "does not answer: it said that it ends".into(),
    }
}

/// Ports of which the same is wanted are told together, in the order of the first of each.
fn wanted(entries: &[Entry]) -> Option<String> {
    let what = |entry: &Entry| (entry.connector, entry.fails_open);
    let mut told = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        if entries[..place].iter().any(|it| what(it) == what(entry)) {
            continue;
        }
        let same = entries.iter().filter(|it| what(it) == what(entry));
        let ports: Vec<_> = same.map(|it| it.port).collect();
        let ports = match ports.as_slice() {
            [port] => format!("port {port}"),
            ports => format!("ports {}", list(ports)),
        };
        let open = if entry.fails_open { ", fails open" } else { "" };
        told.push(format!("on {ports} by {}{open}", who(entry.connector)));
    }
    (!told.is_empty()).then(|| format!("wanted {}", told.join("; ")))
}

fn who(connector: Option<u32>) -> String {
    match connector {
        Some(connector) => format!("Connector {connector}"),
        None => "several Connectors, which the proxy tells apart".into(),
    }
}

fn by_name(name: &LearnedName, host: &str) -> String {
    let what = if name.is_host {
        host.to_owned()
    } else {
        format!("learned for the name with hash {}", name.hash)
    };
    match wanted(&name.wanted) {
        Some(wanted) => format!("{what}: {wanted}"),
        None => format!("{what}: no host of a Connector that this workload is granted any more"),
    }
}

fn state(credential: &Credential) -> String {
    let Credential {
        connector,
        generation,
        revision,
        state,
        ends_in_ms,
    } = credential;
    let end = match ends_in_ms {
        None => "no end".to_owned(),
        Some(ms) if *ms < 0 => format!("ended {} ago", duration(ms.unsigned_abs())),
        Some(ms) => format!("ends in {}", duration(ms.unsigned_abs())),
    };
    format!(
        "of Connector {connector}: {state}, generation {generation}, revision {revision}, {end}"
    )
}

/// For a name without an address.
fn nowhere(report: &Report) -> String {
    let (host, port) = (&report.host, report.port);
    let wanted = report.name.as_ref().and_then(|name| name.wanted.first());
    match wanted {
        None => {
            let (because, _) = because(if report.programs.reach_through.is_none() {
                "not-attached"
            } else if report.workload.is_none() {
                "not-enrolled"
            } else {
                "unwanted"
            });
            format!(
                "Connections to {host}:{port} are left alone, unless its address is also one of a \
                 Connector's: {because}"
            )
        }
        Some(_) => format!(
            "No address is known to be one of {host}: connections to it are left alone, unless its \
             address is also one of another Connector's, until the workload gets one in a DNS \
             answer (UDP, from port 53) or the agent resolves the name. If the workload has its own way to resolve names, ask for the address instead."
        ),
    }
}

/// Why, and what can be done about it.
fn because(reason: &str) -> (&'static str, Option<&'static str>) {
    match reason {
        "not-attached" => (
            "the programs do not reach this cgroup",
            Some("is it the cgroup of a pod of this node?"),
        ),
        "not-enrolled" => (
            "Postern serves no workload there",
            Some("grant the pod's service account `get connectors/proxy`, if it is to be served"),
        ),
        "dns" => ("questions to name servers are never refused", None),
        "unwanted" => (
            "no Connector that the workload is granted wants this address and port",
            Some("if one should: is it granted, is it ready, and is this its address and port?"),
        ),
        "listener" => ("this is the workload's listener itself", None),
        "switched-off" => ("the Connector is switched off", None),
        "pending-open" => (
            "the workload is not served yet, and the Connector fails open",
            None,
        ),
        "stale-open" => (
            "Postern does not answer, and the Connector fails open",
            Some("look after the agent of this node: `postern status`"),
        ),
        "pending" => (
            "the workload is not served yet",
            Some("it is tried again; `postern status` and the agent's log say what is missing"),
        ),
        "credential-unknown" => (
            "the Connector's credential is not known",
            Some("look at the conditions of the Connector, and at the agent's log"),
        ),
        "credential-refused" => (
            "the Connector's credential cannot be used",
            Some("look at the conditions of the Connector: kubectl get connectors -o wide"),
        ),
        "credential-expired" => (
            "the Connector's credential has expired",
            Some("replace the Secret of the Connector"),
        ),
        "stale" => (
            "Postern does not answer, and the Connector fails closed",
            Some("look after the agent of this node: `postern status`"),
        ),
        "udp" => (
            "a Connector wants this address and port, and Postern speaks TCP",
            Some("clients of HTTP/3 fall back to TCP by themselves"),
        ),
        "no-listener" => (
            "the workload has no listener for this address family",
            Some("is the family switched off on the loopback interface of the workload?"),
        ),
        "redirected" => ("the proxy adds the credential", None),
        _ => (
            "the maps say something that this version does not know",
            None,
        ),
    }
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..10 if ms.is_multiple_of(1_000) => format!("{seconds} s"),
        0..10 => format!("{seconds}.{} s", ms % 1_000 / 100),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
