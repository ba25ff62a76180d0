//! The kernel programs, with real sockets: `curl` in a cgroup dials, a listener in its
//! network namespace tells where the kernel says it wanted to go.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType};
use postern::{
    datapath::{Datapath, map_address},
    listen::{self, Inbound, Listeners},
    telemetry::Counters,
    workload::{Cgroup, Egress, Enrolment, NetNs, PolicyId, Workload},
};
use proxy_common::maps::{
    CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, CREDENTIAL_USABLE, Credential, DESTINATION_FAIL_OPEN,
    Destination, DestinationKey, Stats,
};
use testkit::{Sandbox, SandboxOptions};

use crate::{
    rig::{attached, settled},
    support::{output, stdout},
};

use super::features::{fdinfo, field, own_programs};

const POLICY: u32 = 7;
const CONNECTOR: u32 = 3;
const GRACE_NS: u64 = 3_600_000_000_000;
/// What curl says when it is refused; 28 would be a time-out.
const CURL_REFUSED: i32 = 7;

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// An enrolled cgroup in a network that has nothing but a loopback interface.
pub(super) struct Rig {
    pub(super) sandbox: Sandbox,
    pub(super) cgroup: Cgroup,
    datapath: Datapath,
    counters: Arc<Counters>,
}

impl Rig {
    pub(super) fn new(name: &str) -> Result<Self> {
        Self::with_grace(name, GRACE_NS)
    }

    pub(super) fn with_grace(name: &str, grace_ns: u64) -> Result<Self> {
        let options = SandboxOptions {
            addresses: vec!["192.0.2.1".parse()?],
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::new(&options)?;
        let cgroup = Cgroup::create(
            &format!("postern-test-{}-{name}", std::process::id()),
            Path::new("/run/postern-test-cgroups"),
        )?;
        let (mut datapath, flows) = Datapath::load(cgroup.levels(), grace_ns)?;
        let netns = NetNs::open(Path::new(&format!("/proc/{}/ns/net", sandbox.pid())))?;
        let runtime = runtime()?;
        let within = runtime.enter();
        let listeners = Listeners::bind(&netns)?;
        drop(within);
        let (port_v4, port_v6) = listeners.ports();
        let workload = proxy_common::maps::Workload {
            policy: POLICY,
            port_v4,
            port_v6,
            flags: 0,
            pad: 0,
        };
        datapath.enrol(cgroup.id(), workload)?;
        datapath.attach(cgroup.directory())?;
        let counters = Arc::new(Counters::default());
        let workload = Workload {
            cgroup_id: cgroup.id(),
            name: name.into(),
            policy: PolicyId(POLICY),
        };
        let workload = Arc::new(Enrolment::new(workload, Egress::own()));
        let (flows, counted) = (Arc::new(flows), Arc::clone(&counters));
        thread::spawn(move || {
            runtime.block_on(listen::accept(listeners, workload, flows, counted, answer));
        });
        let mut rig = Self {
            sandbox,
            cgroup,
            datapath,
            counters,
        };
        rig.credential(CREDENTIAL_USABLE, 0)?;
        Ok(rig)
    }

    fn credential(&mut self, state: u32, not_after_ns: u64) -> Result<()> {
        let credential = Credential {
            generation: 1,
            revision: 1,
            not_after_ns,
            state,
            flags: 0,
        };
        Ok(self.datapath.set_credential(CONNECTOR, credential)?)
    }

    pub(super) fn redirect(&mut self, addresses: &[&str], flags: u32) -> Result<()> {
        let entries = addresses
            .iter()
            .map(|address| {
                let key = DestinationKey {
                    policy: POLICY,
                    addr: map_address(address.parse()?),
                };
                let value = Destination {
                    connector: CONNECTOR,
                    flags,
                    ports: [80, 8080, 0, 0],
                };
                Ok((key, value))
            })
            .collect::<Result<Vec<_>>>()?;
        let left_out = self.datapath.set_destinations(&entries)?;
        ensure!(left_out.is_empty(), "{left_out:?}");
        Ok(())
    }

    /// curl in the cgroup; prints the body, a space, and the peer that it believes to have.
    fn curl(&self, arguments: &[&str]) -> Result<Output> {
        output(self.in_cgroup(self.cgroup.path(), arguments))
    }

    fn in_cgroup(&self, cgroup: &Path, arguments: &[&str]) -> Command {
        let mut shell = self.sandbox.command("sh");
        shell
            .args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec curl \"$@\""])
            .arg(cgroup)
            .args([
                "--silent",
                "--globoff",
                "--max-time",
                "20",
                "--noproxy",
                "*",
            ])
            .args(["--write-out", " %{remote_ip} %{remote_port}"])
            .args(arguments);
        shell
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        Ok(self.datapath.stats()?)
    }
}

/// Answers with the address that the connection was made for.
fn answer(inbound: Inbound) {
    let respond = move || -> std::io::Result<()> {
        let mut stream: TcpStream = inbound.stream;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut head = [0; 1024];
        let _ = stream.read(&mut head)?;
        let body = inbound.dialled.to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    thread::spawn(respond);
}

/// Asserts that curl reached the listener and knows nothing of it.
fn assert_redirected(output: &Output, address: &str, port: u16) -> Result<()> {
    let address: IpAddr = address.parse()?;
    let dialled = std::net::SocketAddr::new(address, port);
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
    let port = listener_port(&rig)?;
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
    let attached_before = attached(&rig.cgroup)?;
    ensure!(attached_before.len() == 5, "{attached_before:?}");
    let Rig {
        cgroup, datapath, ..
    } = rig;
    drop(datapath);
    runtime()?.block_on(settled(|| Ok(attached(&cgroup)?.is_empty())))
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
        let attached = attached(&cgroup)?;
        Ok(attached.len() == FULL && attached.iter().all(|name| name == "getpeername6"))
    }))
}

#[test]
fn bpftool_shows_named_fields() -> Result<()> {
    let mut rig = Rig::new("bpftool")?;
    rig.redirect(&["198.51.100.7"], 0)?;
    for (map, fields) in [
        ("WORKLOADS", &["cgroup_id", "policy", "port_v4"][..]),
        ("DESTINATIONS", &["policy", "addr", "connector", "ports"]),
        (
            "CREDENTIALS",
            &["generation", "revision", "not_after_ns", "state"],
        ),
        ("CONFIG", &["heartbeat_ns", "grace_ns", "levels"]),
        ("STATS", &["connects", "untouched", "redirected"]),
    ] {
        let text = dump(map)?;
        for field in fields {
            ensure!(
                text.contains(&format!("\"{field}\"")),
                "{map} without {field}: {text}"
            );
        }
    }
    Ok(())
}

/// A map of this process, as bpftool prints it: this test's, or that of another one.
fn dump(map: &str) -> Result<String> {
    let mut show = Command::new("bpftool");
    show.args(["--json", "map", "show"]);
    let maps: serde_json::Value = serde_json::from_str(&stdout(&output(show)?))?;
    let ours: Vec<_> = fdinfo()?
        .filter_map(|text| field(&text, "map_id:"))
        .collect();
    let ids = maps
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["name"] == map)
        .filter_map(|entry| entry["id"].as_u64())
        .filter(|id| ours.contains(id));
    for id in ids {
        let mut dump = Command::new("bpftool");
        dump.args(["map", "dump", "id", &id.to_string()]);
        let dump = output(dump)?;
        // Those of other tests may be gone by now, or empty.
        if dump.status.success() && stdout(&dump).contains('{') {
            return Ok(stdout(&dump));
        }
    }
    bail!("no map {map} of this process")
}

fn listener_port(rig: &Rig) -> Result<u16> {
    let mut sockets = rig.sandbox.command("ss");
    sockets.args(["--numeric", "--listening", "--tcp", "--no-header", "--ipv4"]);
    let text = stdout(&output(sockets)?);
    let local = text
        .split_whitespace()
        .find(|word| word.starts_with("127.0.0.1:"))
        .with_context(|| format!("no listener in: {text}"))?;
    Ok(local.trim_start_matches("127.0.0.1:").parse()?)
}
