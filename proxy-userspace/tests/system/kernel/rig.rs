//! Enrolled workloads in a network that has nothing but a loopback interface, and their
//! listeners, which tell where the kernel says a connection wanted to go.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use postern::{
    admission::Share,
    datapath::{Datapath, Features, FlowTable, map_address},
    limits::Tuning,
    listen::{self, Inbound, Listeners},
    telemetry::Counters,
    workload::{Cgroup, Egress, Enrolment, NetNs, PolicyId, Workload},
};
use proxy_common::maps::{
    CREDENTIAL_USABLE, Credential, Destination, DestinationKey, FlowKey, Origin, Stats,
};
use testkit::{Sandbox, SandboxOptions, net::listens};
use tokio::sync::oneshot;

use super::features::{fdinfo, field};
use crate::support::{output, stdout};

pub(super) const POLICY: u32 = 7;
pub(super) const CONNECTOR: u32 = 3;
/// So long that no test depends on a heartbeat.
pub(super) const GRACE_NS: u64 = 3_600_000_000_000;
/// Address of the sandbox besides its loopback ones.
pub(super) const ADDRESS: &str = "192.0.2.1";
/// Where cgroup2 is mounted if it is nowhere.
const SPARE: &str = "/run/postern-test-cgroups";

/// A cgroup with the programs, and a network namespace.
pub(super) struct Rig {
    pub(super) sandbox: Sandbox,
    pub(super) cgroup: Cgroup,
    pub(super) datapath: Datapath,
    /// Of all listeners.
    pub(super) counters: Arc<Counters>,
    flows: Arc<FlowTable>,
    seen: Arc<Mutex<Vec<Seen>>>,
    served: Vec<Served>,
}

/// A workload with its listeners.
pub(super) struct Served {
    /// Of 127.0.0.1 and of `::1`.
    pub(super) ports: (u16, u16),
    /// The listeners go with it.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// A connection as a listener got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) workload: u64,
    pub(super) dialled: SocketAddr,
    pub(super) connector: u32,
    pub(super) peer: SocketAddr,
}

impl Rig {
    /// The cgroup itself is an enrolled workload.
    pub(super) fn new(name: &str) -> Result<Self> {
        Self::with_grace(name, GRACE_NS)
    }

    pub(super) fn with_grace(name: &str, grace_ns: u64) -> Result<Self> {
        let mut rig = Self::tree(name, &[0], grace_ns)?;
        let path = rig.cgroup.path().to_owned();
        rig.serve(&path, POLICY)?;
        Ok(rig)
    }

    /// Workloads live this far below the cgroup; none is enrolled yet.
    pub(super) fn tree(name: &str, below: &[u8], grace_ns: u64) -> Result<Self> {
        let options = SandboxOptions {
            addresses: vec![ADDRESS.parse()?],
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::new(&options)?;
        let unique = format!("postern-test-{}-{name}", std::process::id());
        let cgroup = Cgroup::create(&unique, Path::new(SPARE))?;
        let levels: Vec<_> = below
            .iter()
            .map(|below| cgroup.levels()[0] + below)
            .collect();
        let (mut datapath, flows) = Datapath::load(&levels, grace_ns)?;
        datapath.attach(cgroup.directory())?;
        let mut rig = Self {
            sandbox,
            cgroup,
            datapath,
            counters: Arc::default(),
            flows: Arc::new(flows),
            seen: Arc::default(),
            served: Vec::new(),
        };
        rig.credential(CREDENTIAL_USABLE, 0)?;
        Ok(rig)
    }

    /// Makes a cgroup below that of the rig.
    pub(super) fn below(&self, path: &str) -> Result<PathBuf> {
        let path = self.cgroup.path().join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Enrols the workload of a cgroup, and listens for it; returns the cgroup's id.
    pub(super) fn serve(&mut self, cgroup: &Path, policy: u32) -> Result<u64> {
        let cgroup_id = id(cgroup)?;
        let netns = NetNs::open(Path::new(&format!("/proc/{}/ns/net", self.sandbox.pid())))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let within = runtime.enter();
        let listeners = Listeners::bind(&netns)?;
        drop(within);
        let ports = listeners.ports();
        let entry = proxy_common::maps::Workload {
            policy,
            port_v4: ports.0,
            port_v6: ports.1,
            flags: 0,
            pad: 0,
        };
        self.datapath.enrol(cgroup_id, entry)?;
        let workload = Workload {
            cgroup_id,
            name: cgroup.display().to_string(),
            policy: PolicyId(policy),
        };
        let workload = Arc::new(Enrolment::new(workload, Egress::own()));
        let (flows, counters) = (Arc::clone(&self.flows), Arc::clone(&self.counters));
        let seen = Arc::clone(&self.seen);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let deliver = |inbound| answer(inbound, &seen);
            let share = Share::new(&Arc::default(), &Tuning::default(), &counters);
            let accept = listen::accept(listeners, workload, flows, share, counters, deliver);
            runtime.block_on(async {
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        self.served.push(Served {
            ports,
            stop,
            thread,
        });
        Ok(cgroup_id)
    }

    /// Closes all listeners, as if the proxy had gone; the kernel goes on to redirect.
    pub(super) fn close_listeners(&mut self) {
        for served in self.served.drain(..) {
            drop(served.stop);
            // It ends when nothing of ours listens any more.
            let _ = served.thread.join();
            // What another test starts at this moment has a copy until it is its own program.
            let (v4, v6) = served.ports;
            let pid = self.sandbox.pid();
            eventually(|| Ok(!listens(pid, v4) && !listens(pid, v6))).expect("no errors");
        }
    }

    /// The workload that was enrolled first.
    pub(super) fn first(&self) -> Result<&Served> {
        self.served.first().context("no workload is enrolled")
    }

    pub(super) fn credential(&mut self, state: u32, not_after_ns: u64) -> Result<()> {
        let credential = Credential {
            generation: 1,
            revision: 1,
            not_after_ns,
            state,
            flags: 0,
        };
        Ok(self.datapath.set_credential(CONNECTOR, credential)?)
    }

    /// The policy wants ports 80 and 8080 of these addresses, and nothing else.
    pub(super) fn redirect(&mut self, addresses: &[&str], flags: u32) -> Result<()> {
        let entries = wanted(POLICY, addresses, &[80, 8080], flags)?;
        let left_out = self.datapath.set_destinations(&entries)?;
        ensure!(left_out.is_empty(), "{left_out:?}");
        Ok(())
    }

    /// curl in the cgroup; prints the body, a space, and the peer that it believes to have.
    pub(super) fn curl(&self, arguments: &[&str]) -> Result<Output> {
        output(self.in_cgroup(self.cgroup.path(), arguments))
    }

    pub(super) fn in_cgroup(&self, cgroup: &Path, arguments: &[&str]) -> Command {
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

    /// A map of the rig.
    pub(super) fn map(&self, name: &str) -> Result<Map> {
        let id = u32::try_from(self.map_id(name)?)?;
        Ok(Map::from_map_data(MapData::from_id(id)?)?)
    }

    /// The same as bpftool prints it.
    pub(super) fn dump(&self, name: &str) -> Result<String> {
        let mut dump = Command::new("bpftool");
        dump.args(["map", "dump", "id", &self.map_id(name)?.to_string()]);
        Ok(stdout(&output(dump)?))
    }

    /// Other tests of this process have maps of the same names: those of this one's programs are
    /// looked at, which are told by the links to its cgroup.
    fn map_id(&self, name: &str) -> Result<u64> {
        let links = fdinfo()?.filter(|text| field(text, "cgroup_id:") == Some(self.cgroup.id()));
        for program in links.filter_map(|text| field(&text, "prog_id:")) {
            let program = bpftool(&["prog", "show", "id", &program.to_string()])?;
            for id in program["map_ids"].as_array().into_iter().flatten() {
                if bpftool(&["map", "show", "id", &id.to_string()])?["name"] == name {
                    return id.as_u64().context("no number");
                }
            }
        }
        bail!("no map {name}")
    }

    /// The flows that are published.
    pub(super) fn flows(&self) -> Result<HashMap<MapData, FlowKey, Origin>> {
        Ok(self.map("FLOWS")?.try_into()?)
    }

    /// Sources of the flows of a workload.
    pub(super) fn flows_of(&self, cgroup_id: u64) -> Result<Vec<FlowKey>> {
        let keys = self.flows()?.keys().collect::<Result<Vec<_>, _>>()?;
        let of_workload = |key: &FlowKey| key.workload == cgroup_id;
        Ok(keys.into_iter().filter(of_workload).collect())
    }

    /// What the listeners got since the last look.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a policy is to want of these ports of addresses.
pub(super) fn wanted(
    policy: u32,
    addresses: &[&str],
    ports: &[u16],
    flags: u32,
) -> Result<Vec<(DestinationKey, Destination)>> {
    let mut entries = Vec::new();
    for address in addresses {
        let addr = map_address(address.parse()?);
        entries.extend(ports.iter().map(|port| {
            let key = DestinationKey {
                policy,
                addr,
                port: *port,
                pad: 0,
            };
            let value = Destination {
                connector: CONNECTOR,
                flags,
            };
            (key, value)
        }));
    }
    Ok(entries)
}

/// Notes the connection, and answers with the address that it was made for.
fn answer(inbound: Inbound, seen: &Mutex<Vec<Seen>>) {
    if let Ok(peer) = inbound.stream.peer_addr() {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(Seen {
            workload: inbound.workload.cgroup_id,
            dialled: inbound.dialled,
            connector: inbound.connector,
            peer,
        });
    }
    let respond = move || -> io::Result<()> {
        let mut stream: TcpStream = inbound.stream;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
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

/// Waits until something holds that others bring about.
pub(super) fn eventually(mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    for _ in 0..6000 {
        if holds()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(false)
}

/// Id of a cgroup.
pub(super) fn id(cgroup: &Path) -> Result<u64> {
    Ok(fs::metadata(cgroup)?.ino())
}

/// What an application sees of a refused `connect()`: before 5.18 no kernel lets a program
/// choose.
pub(super) fn refused() -> &'static str {
    if Features::probe().chosen_error {
        "ECONNREFUSED"
    } else {
        "EPERM"
    }
}

fn bpftool(arguments: &[&str]) -> Result<serde_json::Value> {
    let mut command = Command::new("bpftool");
    command.arg("--json").args(arguments);
    serde_json::from_str(&stdout(&output(command)?)).context("bpftool does not answer in JSON")
}
