use std::net::SocketAddr;

use super::*;
use crate::datapath::explain::{Counts, Destination, Name};

fn entry(connector: Option<u32>, fails_open: bool) -> Entry {
    Entry {
        port: 443,
        connector,
        fails_open,
    }
}

fn connection() -> Connection {
    Connection {
        address: [192, 0, 2, 10].into(),
        known: vec![Source::Learned { ms_ago: 12_345 }, Source::Resolved],
        destination: Destination {
            by_address: vec![entry(Some(3), false)],
            by_names: vec![
                LearnedName {
                    hash: "00000000000000aa".into(),
                    is_host: true,
                    wanted: vec![entry(Some(3), false)],
                },
                LearnedName {
                    hash: "00000000000000bb".into(),
                    is_host: false,
                    wanted: Vec::new(),
                },
            ],
            counts: Some(Counts {
                connector: Some(3),
                fails_open: false,
            }),
        },
        credential: Some(Credential {
            connector: 3,
            generation: 2,
            revision: "0000000000c0ffee".into(),
            state: "usable",
            ends_in_ms: None,
        }),
        verdict: "redirect",
        reason: "redirected",
        listener: Some(SocketAddr::from(([127, 0, 0, 1], 40_004))),
    }
}

fn report(host: &str, connections: Vec<Connection>) -> Report {
    Report {
        cgroup: "/sys/fs/cgroup/kubepods/pod1/c1".into(),
        cgroup_id: 9,
        programs: Programs {
            reach_through: Some(2),
            attached_to: vec![2],
            levels: vec![2, 3],
        },
        workload: Some(Workload {
            cgroup_id: 8,
            level: 2,
            below: 1,
            pending: false,
            policy: Some(7),
            listeners: vec![
                "127.0.0.1:40004".parse().expect("an address"),
                "[::1]:40006".parse().expect("an address"),
            ],
        }),
        agent: Agent {
            heartbeat_age_ms: Some(430),
            grace_ms: 5_000,
            answers: true,
        },
        host: host.into(),
        port: 443,
        transport: "tcp",
        name: Some(Name {
            hash: Some("00000000000000aa".into()),
            wanted: vec![entry(Some(3), false)],
        }),
        connections,
    }
}

const HEAD: &str = "\
cgroup      /sys/fs/cgroup/kubepods/pod1/c1, id 9
programs    attached to it or above, to the cgroup with id 2
workload    the cgroup right above, id 8 at level 2: enrolled, policy 7, listeners \
127.0.0.1:40004, [::1]:40006
agent       answers: its last sign of life is 0.4 s old, of 5 s at most
host        git.example.com: wanted on port 443 by Connector 3
";

#[test]
fn a_redirected_connection_is_told_step_by_step() {
    let told = story(&report("git.example.com", vec![connection()]));
    let expected = "
TCP to 192.0.2.10:443
  known       from a DNS answer of the workload, told or dialled 12 s ago
  known       from the agent, for a host of this Connector
  address     wanted on port 443 by Connector 3
  name        git.example.com: wanted on port 443 by Connector 3
  name        learned for the name with hash 00000000000000bb: no host of a Connector that this \
workload is granted any more
  credential  of Connector 3: usable, generation 2, revision 0000000000c0ffee, no end
  verdict     redirected to 127.0.0.1:40004: the proxy adds the credential
";
    assert_eq!(told, format!("{HEAD}{expected}"));
}

#[test]
fn ports_of_which_the_same_is_wanted_are_told_together() {
    let entry = |port, connector, fails_open| Entry {
        port,
        connector,
        fails_open,
    };
    let entries = [
        entry(80, Some(3), false),
        entry(443, None, true),
        entry(5000, Some(3), false),
        entry(8443, Some(3), true),
    ];
    let told = wanted(&entries);
    let expected = "wanted on ports 80, 5000 by Connector 3; on port 443 by several Connectors, \
                    which the proxy tells apart, fails open; on port 8443 by Connector 3, fails \
                    open";
    assert_eq!(told.as_deref(), Some(expected));
    assert_eq!(wanted(&[]), None);
}

#[test]
fn an_address_of_several_connectors_is_told_as_one_that_may_be_meant() {
    let mut shared = connection();
    shared.known = vec![Source::Possible];
    let told = story(&report("git.example.com", vec![shared]));
    let says = "from the agent, for several Connectors: it may be one of the host's\n";
    assert!(told.contains(&format!("  known       {says}")), "{told}");
}

#[test]
fn a_name_without_an_address_is_told_as_that() {
    let told = story(&report("git.example.com", Vec::new()));
    assert_eq!(
        told,
        format!(
            "{HEAD}\nNo address is known to be one of git.example.com: connections to it are left \
             alone, unless its address is also one of another Connector's, until the workload \
             gets one in a DNS answer (UDP, from port 53) or the agent resolves the name. If the workload has its own way to resolve names, \
             ask for the address instead.\n"
        )
    );
    let mut unknown = report("other.example.com", Vec::new());
    unknown.name = Some(Name {
        hash: None,
        wanted: Vec::new(),
    });
    let told = story(&unknown);
    assert!(
        told.contains("other.example.com: no host of a Connector"),
        "{told}"
    );
    assert!(
        told.ends_with(
            "Connections to other.example.com:443 are left alone, unless its address is also \
             one of a Connector's: no Connector that the workload is granted wants this \
             address and port\n"
        ),
        "{told}"
    );
}

#[test]
fn what_is_in_the_way_is_told_with_what_to_do() {
    let mut expired = connection();
    expired.known = vec![Source::Given];
    expired.destination.by_address = vec![entry(None, true)];
    expired.destination.by_names.clear();
    expired.verdict = "refuse";
    expired.reason = "credential-expired";
    expired.listener = None;
    if let Some(credential) = &mut expired.credential {
        credential.ends_in_ms = Some(-3_600_000);
    }
    let mut report = report("192.0.2.10", vec![expired]);
    report.transport = "udp";
    report.name = None;
    report.agent = Agent {
        heartbeat_age_ms: None,
        grace_ms: 5_000,
        answers: false,
    };
    if let Some(workload) = &mut report.workload {
        workload.below = 0;
        workload.pending = true;
        workload.policy = None;
    }
    let expected = "\
cgroup      /sys/fs/cgroup/kubepods/pod1/c1, id 9
programs    attached to it or above, to the cgroup with id 2
workload    the cgroup itself, id 8 at level 2: pending, no policy known yet, so judged by all
agent       does not answer: it said that it ends

UDP to 192.0.2.10:443
  address     wanted on port 443 by several Connectors, which the proxy tells apart, fails open
  credential  of Connector 3: usable, generation 2, revision 0000000000c0ffee, ended 60 min ago
  verdict     refused: the Connector's credential has expired
              replace the Secret of the Connector
";
    assert_eq!(story(&report), expected);
}

#[test]
fn cgroups_out_of_reach_and_strangers_are_told_as_that() {
    let mut report = report("192.0.2.10", vec![connection()]);
    report.programs.reach_through = None;
    report.programs.attached_to = vec![2, 5];
    report.workload = None;
    report.agent = Agent {
        heartbeat_age_ms: Some(300_000),
        grace_ms: 5_000,
        answers: false,
    };
    let told = story(&report);
    for says in [
        "programs    not attached to it nor above, only to the cgroups with ids 2, 5\n",
        "workload    none: neither it nor a cgroup above it is one, at levels 2, 3\n",
        "agent       does not answer: its last sign of life is 5 min old, more than 5 s\n",
    ] {
        assert!(told.contains(says), "{told}");
    }
    report.programs.attached_to.clear();
    assert!(story(&report).contains("programs    attached nowhere\n"));
}

#[test]
fn every_reason_has_words() {
    use proxy_common::decision::Reason;
    let nothing = because("").0;
    for reason in Reason::ALL {
        // What depends on the socket or on memory is no answer to this question.
        let asked = !matches!(reason, Reason::BoundToDevice | Reason::NoMemory);
        let told = because(crate::datapath::explain::word(reason)).0;
        assert_eq!(told != nothing, asked, "{reason:?}");
    }
}

#[test]
fn durations_are_short() {
    for (ms, text) in [
        (0, "0 s"),
        (430, "0.4 s"),
        (12_345, "12 s"),
        (300_000, "5 min"),
        (7_200_000, "2 h"),
        (259_200_000, "3 days"),
    ] {
        assert_eq!(duration(ms), text);
    }
}
