//! A network with nothing but loopback, the programs, and cgroups around them.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use nix::{
    sched::{CloneFlags, setns, unshare},
    time::{ClockId, clock_gettime},
};
use postern::{
    datapath::{Datapath, map_address},
    workload::Cgroup,
};
use proxy_common::{
    dns,
    maps::{
        CREDENTIAL_USABLE, Credential, Destination, DestinationKey, HostnameKey, WHOLE_HOST,
        Workload,
    },
};
use rustix::net::sockopt;

use crate::traffic::{self, Traffic};

const POLICY: u32 = 1;
const CONNECTOR: u32 = 1;
/// Of a Connector; no route leads there.
const WANTED: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 80);

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process beside the cgroup that has the programs.
    Outside,
    /// One below it, of no workload.
    Elsewhere,
    /// One of a workload, to an address that no Connector has.
    Miss,
    /// The same to a Connector's.
    Hit,
}

impl Caller {
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("outside of the cgroup", Self::Outside),
        ("enrolled elsewhere", Self::Elsewhere),
        ("enrolled, miss", Self::Miss),
        ("enrolled, hit", Self::Hit),
    ];
}

/// What programs did: how often they ran, and how long in all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) runs: u64,
    pub(crate) nanoseconds: u64,
}

pub(crate) struct World {
    /// Where this process belongs. Left before the cgroup is removed, with all that is in it.
    home: Home,
    server: TcpListener,
    cgroup: Cgroup,
    datapath: Option<Datapath>,
    /// Of the workload, and of who sends to it.
    sockets: Option<(UdpSocket, UdpSocket, UdpSocket)>,
}

struct Home {
    cgroup: PathBuf,
    network: File,
}

impl Home {
    fn enter(&self) -> Result<()> {
        join(&self.cgroup)?;
        setns(&self.network, CloneFlags::CLONE_NEWNET).context("cannot return to the network")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.enter() {
            eprintln!("{error:#}");
        }
    }
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let network = File::open("/proc/self/ns/net").context("cannot open the network")?;
        let name = format!("postern-bench-{}", std::process::id());
        let cgroup = Cgroup::create(&name, Path::new("/run/postern-bench-cgroups"))?;
        let above = cgroup
            .path()
            .parent()
            .context("no cgroup above")?
            .to_owned();
        let home = Home {
            cgroup: above,
            network,
        };
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: run as root")?;
        let mut up = Command::new("ip");
        up.args(["link", "set", "lo", "up"]);
        ensure!(up.status()?.success(), "cannot set up loopback");
        for child in ["elsewhere", "workload"] {
            fs::create_dir(cgroup.path().join(child)).context("cannot make a cgroup")?;
        }
        Ok(Self {
            home,
            // Made outside, as the proxy makes its listeners.
            server: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
            cgroup,
            datapath: None,
            sockets: None,
        })
    }

    /// Loads and attaches the programs, and enrols the workload; its listener is the server.
    pub(crate) fn attach(&mut self) -> Result<()> {
        let level = self.cgroup.levels()[0] + 1;
        let (mut datapath, _) = Datapath::load(&[level], u64::MAX)?;
        let destination = Destination {
            connector: CONNECTOR,
            flags: 0,
        };
        let key = DestinationKey {
            policy: POLICY,
            addr: map_address(WANTED.ip()),
            port: WANTED.port(),
            pad: 0,
        };
        datapath.set_destinations(&[(key, destination)])?;
        let name = dns::hash(traffic::HOST).context("no name")?;
        let entries = [WHOLE_HOST, WANTED.port()].map(|port| {
            let key = HostnameKey {
                name,
                policy: POLICY,
                port,
                pad: 0,
            };
            (key, destination)
        });
        datapath.set_hostnames(&entries)?;
        let credential = Credential {
            generation: 1,
            revision: 1,
            not_after_ns: 0,
            state: CREDENTIAL_USABLE,
            flags: 0,
        };
        datapath.set_credential(CONNECTOR, credential)?;
        let workload = Workload {
            policy: POLICY,
            port_v4: self.server.local_addr()?.port(),
            port_v6: 0,
            flags: 0,
            pad: 0,
        };
        datapath.enrol(self.workload_id()?, workload)?;
        datapath.attach(self.cgroup.directory())?;
        self.datapath = Some(datapath);
        Ok(())
    }

    /// Has the workload learn from DNS answers, and receive on a socket.
    pub(crate) fn learn(&mut self) -> Result<()> {
        let path = self.workload();
        let id = self.workload_id()?;
        let datapath = self.datapath.as_mut().context("nothing is attached")?;
        datapath.learn(id, &path)?;
        join(self.cgroup.path())?;
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
        join(&path)?;
        let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        for socket in [&other, &resolver] {
            socket.connect(own.local_addr()?)?;
        }
        own.send_to(b"query", resolver.local_addr()?)?;
        own.set_nonblocking(true)?;
        self.sockets = Some((own, other, resolver));
        Ok(())
    }

    /// Makes connections, one after the other; how much of the processor's time that took. Both
    /// ends are in this thread, so that neither schedulers nor other programs are measured.
    pub(crate) fn connects(&self, caller: Caller, connects: u32) -> Result<Duration> {
        match caller {
            Caller::Outside => join(&self.home.cgroup)?,
            Caller::Elsewhere => join(&self.cgroup.path().join("elsewhere"))?,
            Caller::Miss | Caller::Hit => join(&self.workload())?,
        }
        let address = match caller {
            Caller::Hit => WANTED,
            _ => self.server.local_addr()?,
        };
        let start = processor_time()?;
        for _ in 0..connects {
            let client = TcpStream::connect(address)?;
            let (accepted, _) = self.server.accept()?;
            // Nothing of it stays, or the ports would be used up.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            drop(client);
            drop(accepted);
        }
        Ok(processor_time()?.saturating_sub(start))
    }

    /// Sends packets to the workload.
    pub(crate) fn packets(&self, traffic: Traffic, packets: u32) -> Result<()> {
        let (own, other, resolver) = self
            .sockets
            .as_ref()
            .context("the workload does not learn")?;
        match traffic {
            Traffic::Tcp => {
                join(&self.workload())?;
                let client = TcpStream::connect(self.server.local_addr()?)?;
                let (accepted, _) = self.server.accept()?;
                traffic::stream(&accepted, &client, packets)?;
            }
            Traffic::Udp => traffic::datagrams(other, own, &[0; 64], packets)?,
            Traffic::Stranger => {
                traffic::datagrams(
                    resolver,
                    own,
                    &traffic::answer("other.example.com"),
                    packets,
                )?;
            }
            Traffic::Connector => {
                traffic::datagrams(resolver, own, &traffic::answer(traffic::HOST), packets)?;
            }
        }
        Ok(())
    }

    /// What some of the programs take of something, by the statistics of the kernel.
    pub(crate) fn cost(
        &self,
        programs: &[&str],
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Vec<Cost>> {
        let before = self.costs(programs)?;
        // On for as long as the descriptor lives, whatever `kernel.bpf_stats_enabled` says.
        let statistics = enable_stats(Stats::RunTime)?;
        work(self)?;
        drop(statistics);
        let after = self.costs(programs)?;
        let spent = |(before, after): (&Cost, &Cost)| Cost {
            runs: after.runs - before.runs,
            nanoseconds: after.nanoseconds - before.nanoseconds,
        };
        Ok(before.iter().zip(&after).map(spent).collect())
    }

    fn costs(&self, programs: &[&str]) -> Result<Vec<Cost>> {
        let mut attached = Vec::new();
        for cgroup in [self.cgroup.path().to_owned(), self.workload()] {
            let list = bpftool(&["cgroup", "list", &cgroup.display().to_string()])?;
            attached.extend(list.as_array().into_iter().flatten().cloned());
        }
        let cost = |name: &&str| {
            let program = attached.iter().find(|program| program["name"] == *name);
            let id = &program.with_context(|| format!("no program {name}"))?["id"];
            let program = bpftool(&["prog", "show", "id", &id.to_string()])?;
            Ok(Cost {
                // Not there is none.
                runs: program["run_cnt"].as_u64().unwrap_or(0),
                nanoseconds: program["run_time_ns"].as_u64().unwrap_or(0),
            })
        };
        programs.iter().map(cost).collect()
    }

    /// Leaves the cgroups, which go with the world.
    pub(crate) fn home(self) -> Result<()> {
        self.home.enter()
    }

    fn workload(&self) -> PathBuf {
        self.cgroup.path().join("workload")
    }

    fn workload_id(&self) -> Result<u64> {
        Ok(fs::metadata(self.workload())?.ino())
    }
}

/// What this thread has had of a processor.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn join(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("cannot write {}", file.display()))
}

fn bpftool(arguments: &[&str]) -> Result<serde_json::Value> {
    let mut command = Command::new("bpftool");
    command.arg("--json").args(arguments);
    let output = command.output().context("cannot start bpftool")?;
    if output.stdout.trim_ascii().is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(&output.stdout).context("bpftool does not answer in JSON")
}
