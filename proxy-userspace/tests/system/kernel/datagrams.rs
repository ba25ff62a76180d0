//! UDP to what a Connector wants, such as QUIC, is refused, and nothing else of UDP is touched.

use anyhow::{Result, bail, ensure};
use proxy_common::maps::{CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, DESTINATION_FAIL_OPEN, Stats};

use super::{
    probe::Probe,
    rig::{GRACE_NS, POLICY, Rig, refused, wanted},
};

/// What a datagram gets that is left alone: no route leads to the Connector's addresses.
const ALONE: &str = "ENETUNREACH";

/// A process of a workload whose Connector is at 198.51.100.7 and `2001:db8::7`, with
/// ports 53 and 80.
fn start(name: &str, flags: u32, grace_ns: u64) -> Result<(Rig, Probe)> {
    let mut rig = Rig::with_grace(name, grace_ns)?;
    let (id, path) = (rig.cgroup.id(), rig.cgroup.path().to_owned());
    rig.datapath.learn(id, &path)?;
    let entries = wanted(POLICY, &["198.51.100.7", "2001:db8::7"], &[53, 80], flags)?;
    ensure!(rig.datapath.set_destinations(&entries)?.is_empty());
    let probe = Probe::start(&rig.sandbox, Some(&path))?;
    Ok((rig, probe))
}

/// Asserts what was counted: a refusal for each socket or datagram, and nothing else.
fn counted(rig: &Rig, refused_udp: u64) -> Result<()> {
    let expected = Stats {
        refused_udp,
        ..Stats::default()
    };
    let stats = rig.stats()?;
    ensure!(stats == expected, "{stats}\ninstead of {expected}");
    Ok(())
}

/// Plays each step with the answer behind it.
fn play(probe: &mut Probe, steps: &[(&str, &str)]) -> Result<()> {
    let lines: Vec<_> = steps
        .iter()
        .map(|(step, answer)| format!("{step} -> {answer}"))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    probe.play(&lines)
}

#[test]
fn sockets_that_connect_to_a_connector_are_refused() -> Result<()> {
    let (rig, mut probe) = start("udp-connect", 0, GRACE_NS)?;
    let refused = refused();
    play(
        &mut probe,
        &[
            ("socket a v4 dgram", "ok"),
            ("connect a 198.51.100.7:80", refused),
            ("connect a 198.51.100.7:81", ALONE),
            ("connect a 198.51.100.7:53", ALONE),
            ("socket b v6 dgram", "ok"),
            ("connect b [2001:db8::7]:80", refused),
            ("connect b [2001:db8::7]:81", ALONE),
            ("connect b [2001:db8::7]:53", ALONE),
            ("connect b [::ffff:198.51.100.7]:80", refused),
            ("connect b [::ffff:198.51.100.7]:53", ALONE),
            // A socket that was refused is as good as before.
            ("connect a 192.0.2.1:80", "ok"),
            ("send a hello", "ok"),
        ],
    )?;
    counted(&rig, 3)
}

#[test]
fn datagrams_to_a_connector_are_refused() -> Result<()> {
    let (rig, mut probe) = start("udp-send", 0, GRACE_NS)?;
    let refused = refused();
    play(
        &mut probe,
        &[
            ("socket a v4 dgram", "ok"),
            ("sendto a 198.51.100.7:80 hello", refused),
            ("sendto a 198.51.100.7:81 hello", ALONE),
            ("sendto a 198.51.100.7:53 hello", ALONE),
            ("sendto a 192.0.2.1:80 hello", "ok"),
            ("sendmmsg a 198.51.100.7:80 hello", refused),
            ("sendmmsg a 192.0.2.1:80 hello", "2"),
            ("socket b v6 dgram", "ok"),
            ("sendto b [2001:db8::7]:80 hello", refused),
            ("sendto b [2001:db8::7]:81 hello", ALONE),
            ("sendto b [2001:db8::7]:53 hello", ALONE),
            ("sendto b [::ffff:198.51.100.7]:80 hello", refused),
            ("sendto b [::ffff:198.51.100.7]:53 hello", ALONE),
            // Connected elsewhere, where what it says is not looked at.
            ("socket c v4 dgram", "ok"),
            ("connect c 192.0.2.1:80", "ok"),
            ("send c hello", "ok"),
            ("sendto c 198.51.100.7:80 hello", refused),
        ],
    )?;
    counted(&rig, 5)
}

#[test]
fn tcp_of_the_same_workload_is_redirected() -> Result<()> {
    let (rig, mut probe) = start("udp-fallback", 0, GRACE_NS)?;
    play(
        &mut probe,
        &[
            ("socket a v4 dgram", "ok"),
            ("sendto a 198.51.100.7:80 hello", refused()),
            ("socket b v4 stream", "ok"),
            ("connect b 198.51.100.7:80", "ok"),
            ("exchange b", "198.51.100.7:80"),
        ],
    )?;
    let stats = rig.stats()?;
    ensure!(
        (stats.connects, stats.redirected, stats.refused_udp) == (1, 1, 1),
        "{stats}"
    );
    Ok(())
}

#[test]
fn sockets_that_speak_neither_tcp_nor_udp_are_left_alone() -> Result<()> {
    let (rig, mut probe) = start("udp-others", 0, GRACE_NS)?;
    // Linux 7.1 has no UDP-Lite any more.
    match probe.ask("socket a v4 dgram udplite")?.as_str() {
        "ok" => play(
            &mut probe,
            &[
                ("sendto a 198.51.100.7:80 hello", ALONE),
                ("connect a 198.51.100.7:80", ALONE),
            ],
        )?,
        "EPROTONOSUPPORT" => {}
        other => bail!("a socket of UDP-Lite: {other}"),
    }
    play(
        &mut probe,
        &[
            ("socket b v4 raw icmp", "ok"),
            ("sendto b 198.51.100.7:80 hello", ALONE),
            ("connect b 198.51.100.7:80", ALONE),
        ],
    )?;
    counted(&rig, 0)
}

#[test]
fn a_connector_that_is_switched_off_may_be_reached_over_udp() -> Result<()> {
    let (mut rig, mut probe) = start("udp-credential", 0, GRACE_NS)?;
    probe.play(&["socket a v4 dgram"])?;
    rig.credential(CREDENTIAL_REFUSE, 0)?;
    play(&mut probe, &[("sendto a 198.51.100.7:80 hello", refused())])?;
    rig.credential(CREDENTIAL_BYPASS, 0)?;
    play(
        &mut probe,
        &[
            ("sendto a 198.51.100.7:80 hello", ALONE),
            ("connect a 198.51.100.7:80", ALONE),
        ],
    )?;
    counted(&rig, 1)
}

#[test]
fn while_postern_does_not_answer_udp_fails_like_tcp() -> Result<()> {
    for (flags, answer, count) in [(0, refused(), 2), (DESTINATION_FAIL_OPEN, ALONE, 0)] {
        let (rig, mut probe) = start(&format!("udp-stale-{flags}"), flags, 0)?;
        play(
            &mut probe,
            &[
                ("socket a v4 dgram", "ok"),
                ("sendto a 198.51.100.7:80 hello", answer),
                ("connect a 198.51.100.7:80", answer),
            ],
        )?;
        counted(&rig, count)?;
    }
    Ok(())
}

#[test]
fn fail_open_alone_does_not_let_udp_through() -> Result<()> {
    let (rig, mut probe) = start("udp-open", DESTINATION_FAIL_OPEN, GRACE_NS)?;
    play(
        &mut probe,
        &[
            ("socket a v4 dgram", "ok"),
            ("sendto a 198.51.100.7:80 hello", refused()),
        ],
    )?;
    counted(&rig, 1)
}
