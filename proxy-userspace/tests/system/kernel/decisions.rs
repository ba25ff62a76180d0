//! The kernel programs, with real sockets: `curl` in a cgroup dials, a listener in its
//! network namespace tells where the kernel says it wanted to go.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType};
use postern::{datapath::Datapath, telemetry::Counters, workload::Cgroup};
use proxy_common::maps::{
    CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, CREDENTIAL_USABLE, DESTINATION_FAIL_OPEN, Stats,
};

use super::{
    features::{field, own_programs},
    rig::{GRACE_NS, Rig},
};
use crate::{
    rig::{CURL_REFUSED, attached, settled},
    support::{output, stdout},
};

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Asserts that curl reached the listener and knows nothing of it.
fn assert_redirected(output: &Output, address: &str, port: u16) -> Result<()> {
    let address: IpAddr = address.parse()?;
    let dialled = SocketAddr::new(address, port);
    let expected = format!("{dialled} {address} {port}");
    // A mapped address is shown as one by curl, since its socket is of that family.
    let shown = stdout(output).replace("::ffff:", "");
    ensure!(
        shown == expected,
        "expected {expected:?}, got {shown:?} ({})",
        output.status
    );
    Ok(())
}

#[test]
fn connects_of_both_families_reach_the_listener_and_show_what_was_dialled() -> Result<()> {
    let mut rig = Rig::new("families")?;
    // No route leads there, and nothing listens.
    rig.redirect(&["198.51.100.7", "2001:db8::7"], 0)?;
    for (url, address, port) in [
        ("http://198.51.100.7/", "198.51.100.7", 80),
        ("http://198.51.100.7:8080/", "198.51.100.7", 8080),
        ("http://[2001:db8::7]/", "2001:db8::7", 80),
        ("http://[::ffff:198.51.100.7]/", "198.51.100.7", 80),
    ] {
        assert_redirected(&rig.curl(&[url])?, address, port).context(url)?;
    }
    let stats = rig.stats()?;
    ensure!(
        stats.redirected == 4 && stats.flows == 4 && stats.flows_lost == 0,
        "{stats:?}"
    );
    Ok(())
}

#[test]
fn a_socket_bound_to_an_address_is_redirected() -> Result<()> {
    let mut rig = Rig::new("bound")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let output = rig.curl(&["--interface", "host!192.0.2.1", "http://198.51.100.7/"])?;
    assert_redirected(&output, "198.51.100.7", 80)
}

#[test]
fn a_socket_bound_to_a_device_is_refused_instead_of_hanging() -> Result<()> {
    let mut rig = Rig::new("device")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let output = rig.curl(&["--interface", "if!lo", "http://198.51.100.7/"])?;
    ensure!(output.status.code() == Some(CURL_REFUSED), "{output:?}");
    ensure!(rig.stats()?.refused_sock == 1);
    Ok(())
}

#[test]
fn what_nobody_wants_is_left_alone() -> Result<()> {
    let mut rig = Rig::new("untouched")?;
    rig.redirect(&["192.0.2.1"], 0)?;
    for url in [
        "http://192.0.2.1:9/",
        "http://127.0.0.1:9/",
        "http://[::1]:80/",
    ] {
        let output = rig.curl(&[url])?;
        ensure!(
            output.status.code() == Some(CURL_REFUSED),
            "{url}: {output:?}"
        );
    }
    let stats = rig.stats()?;
    ensure!(
        stats.connects == 3 && stats.untouched == 3 && stats.redirected == 0,
        "{stats:?}"
    );
    Ok(())
}

#[test]
fn processes_outside_of_the_cgroup_never_meet_the_programs() -> Result<()> {
    let mut rig = Rig::new("outside")?;
    rig.redirect(&["192.0.2.1"], 0)?;
    let mut curl = rig.sandbox.command("curl");
    curl.args(["--silent", "--max-time", "20", "http://192.0.2.1/"]);
    ensure!(output(curl)?.status.code() == Some(CURL_REFUSED));
    ensure!(rig.stats()? == Stats::default());
    Ok(())
}

#[test]
fn nested_cgroups_count_as_the_workload() -> Result<()> {
    let mut rig = Rig::new("nested")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let nested = rig.cgroup.path().join("a/b");
    fs::create_dir_all(&nested)?;
    let output = output(rig.in_cgroup(&nested, &["http://198.51.100.7/"]))?;
    assert_redirected(&output, "198.51.100.7", 80)
}

#[test]
fn the_state_of_the_credential_decides() -> Result<()> {
    let mut rig = Rig::new("credential")?;
    rig.redirect(&["192.0.2.1"], 0)?;
    for (state, not_after_ns) in [(CREDENTIAL_REFUSE, 0), (99, 0), (CREDENTIAL_USABLE, 1)] {
        rig.credential(state, not_after_ns)?;
        let output = rig.curl(&["http://192.0.2.1/"])?;
        ensure!(
            output.status.code() == Some(CURL_REFUSED),
            "{state}: {output:?}"
        );
    }
    ensure!(rig.stats()?.refused_cred == 3);

    rig.credential(CREDENTIAL_BYPASS, 0)?;
    let output = rig.curl(&["http://192.0.2.1/"])?;
    ensure!(
        output.status.code() == Some(CURL_REFUSED),
        "nothing listens there: {output:?}"
    );
    ensure!(rig.stats()?.bypassed == 1);

    rig.credential(CREDENTIAL_USABLE, 0)?;
    assert_redirected(&rig.curl(&["http://192.0.2.1/"])?, "192.0.2.1", 80)
}

#[test]
fn without_a_heartbeat_closed_connectors_refuse_and_open_ones_go_direct() -> Result<()> {
    let mut rig = Rig::with_grace("heartbeat", 0)?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let output = rig.curl(&["http://198.51.100.7/"])?;
    ensure!(output.status.code() == Some(CURL_REFUSED), "{output:?}");
    ensure!(rig.stats()?.refused_stale == 1);

    rig.redirect(&["198.51.100.7"], DESTINATION_FAIL_OPEN)?;
    // Untouched, it finds no route.
    rig.curl(&["http://198.51.100.7/"])?;
    let stats = rig.stats()?;
    ensure!(stats.bypassed == 1 && stats.redirected == 0, "{stats:?}");
    Ok(())
}

#[test]
fn who_dials_the_listener_itself_is_reset() -> Result<()> {
    let mut rig = Rig::new("direct")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let (port, _) = rig.first()?.ports;
    let output = rig.curl(&[&format!("http://127.0.0.1:{port}/")])?;
    ensure!(
        stdout(&output).starts_with("127.0.0.1")
            || output.stdout.is_empty()
            || !output.status.success()
    );
    ensure!(!output.status.success(), "{output:?}");
    ensure!(Counters::read(&rig.counters.unknown_flows) == 1);
    ensure!(Counters::read(&rig.counters.accepted) == 0);
    Ok(())
}

#[test]
fn dropping_the_datapath_detaches_everything() -> Result<()> {
    let mut rig = Rig::new("detach")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    let attached_before = attached(rig.cgroup.id())?;
    ensure!(attached_before.len() == 5, "{attached_before:?}");
    let Rig {
        cgroup, datapath, ..
    } = rig;
    drop(datapath);
    runtime()?.block_on(settled(|| Ok(attached(cgroup.id())?.is_empty())))
}

#[test]
fn when_one_program_cannot_be_attached_none_is() -> Result<()> {
    /// Programs that the kernel attaches to one hook of a cgroup (`BPF_CGROUP_MAX_PROGS`).
    const FULL: usize = 64;
    let name = format!("postern-test-{}-full", std::process::id());
    let cgroup = Cgroup::create(&name, Path::new("/run/postern-test-cgroups"))?;
    // The last hook of all is taken by others; the ones before it are free.
    let (_other, _) = Datapath::load(cgroup.levels(), GRACE_NS)?;
    let pin = Path::new("/sys/fs/bpf").join(&name);
    let is_pinned = own_programs("getpeername6")?.iter().any(|text| {
        let mut pinned = Command::new("bpftool");
        let id = field(text, "prog_id:").unwrap_or_default().to_string();
        pinned.args(["prog", "pin", "id", &id]).arg(&pin);
        testkit::run_ok(pinned).is_ok()
    });
    ensure!(is_pinned, "no program of this process");
    let hook = CgroupSockAddrAttachType::GetPeerName6;
    let other = CgroupSockAddr::from_pin(&pin, hook);
    fs::remove_file(&pin)?;
    let mut other = other?;
    for _ in 0..FULL {
        other.attach(cgroup.directory(), CgroupAttachMode::Single)?;
    }

    let (mut datapath, _) = Datapath::load(cgroup.levels(), GRACE_NS)?;
    let error = datapath.attach(cgroup.directory());
    let error = error.err().context("it was attached")?.to_string();
    let running = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(
        error.contains("getpeername6") && error.contains(running.trim()) && error.contains("5.8"),
        "{error}"
    );
    runtime()?.block_on(settled(|| {
        let attached = attached(cgroup.id())?;
        Ok(attached.len() == FULL && attached.iter().all(|name| name == "getpeername6"))
    }))
}

#[test]
fn bpftool_shows_named_fields() -> Result<()> {
    let mut rig = Rig::new("bpftool")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    for (map, fields) in [
        ("WORKLOADS", &["cgroup_id", "policy", "port_v4"][..]),
        ("DESTINATIONS", &["policy", "addr", "port", "connector"]),
        (
            "CREDENTIALS",
            &["generation", "revision", "not_after_ns", "state"],
        ),
        ("CONFIG", &["heartbeat_ns", "grace_ns", "levels"]),
        ("STATS", &["connects", "untouched", "redirected"]),
    ] {
        let text = rig.dump(map)?;
        for field in fields {
            ensure!(
                text.contains(&format!("\"{field}\"")),
                "{map} without {field}: {text}"
            );
        }
    }
    Ok(())
}
