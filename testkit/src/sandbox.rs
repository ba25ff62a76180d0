//! A network of its own for a test.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{TempDir, spawner};

/// What is special in a [`Sandbox`].
#[derive(Clone, Debug, Default)]
pub struct SandboxOptions {
    /// Lines of its `/etc/hosts`; `localhost` is there already.
    pub hosts: Vec<(IpAddr, String)>,
    /// Addresses of its loopback interface besides `127.0.0.0/8` and `::1`.
    pub addresses: Vec<IpAddr>,
    /// Its only name server; without one the machine's `resolv.conf` stays visible, which
    /// leads nowhere because a sandbox has no route out.
    pub nameserver: Option<IpAddr>,
}

impl SandboxOptions {
    /// Adds a name and the address that it stands for, which the sandbox gets as well.
    #[must_use]
    pub fn host(mut self, name: &str, address: IpAddr) -> Self {
        if !address.is_loopback() && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
        self.hosts.push((address, name.to_owned()));
        self
    }
}

/// A network namespace with a loopback interface only, and a mount namespace in which
/// `/etc/hosts` is its own. Everything else of the machine is visible: files, processes,
/// cgroups, bpffs.
#[derive(Debug)]
pub struct Sandbox {
    keeper: Child,
    _files: TempDir,
}

impl Sandbox {
    /// Makes one; needs root.
    pub fn new(options: &SandboxOptions) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a network namespace needs root");
        }
        let files = TempDir::new("sandbox")?;
        let script = script(&files, options)?;
        let errors = files.join("errors");
        let log = File::create(&errors).context("cannot write a log file")?;

        let mut unshare = Command::new("unshare");
        // Mounts that the machine gets later shall be visible inside, not the other way round.
        unshare.args([
            "--net",
            "--mount",
            "--propagation",
            "slave",
            "--",
            "sh",
            "-ec",
            &script,
        ]);
        let mut keeper = spawner::spawn(&unshare, |command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log);
        })?;

        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("cannot read from a sandbox")?;
        }
        let sandbox = Self {
            keeper,
            _files: files,
        };
        if line != "ready\n" {
            let reason = std::fs::read_to_string(errors).unwrap_or_default();
            bail!("cannot make a network namespace: {}", reason.trim());
        }
        Ok(sandbox)
    }

    /// A command that runs inside, in the current folder. It stays in the cgroup of the
    /// caller. A later `current_dir` has no effect; use [`command_in`](Self::command_in).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let folder = std::env::current_dir().unwrap_or_else(|_| "/".into());
        self.command_in(&folder, program)
    }

    /// A command that runs inside, in a folder. The process is the program itself: the
    /// process id of the child is the program's.
    pub fn command_in(&self, folder: impl AsRef<OsStr>, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--net", "--mount"]);
        let mut work = std::ffi::OsString::from("--wdns=");
        work.push(folder);
        command.arg(work).arg("--").arg(program);
        command
    }

    /// A process inside, by which the namespaces can be found in `/proc`.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// Moves the calling thread, and whatever it starts, into the sandbox's network.
    pub fn enter_network(&self) -> Result<()> {
        enter_network_of(self.pid())
    }
}

/// Moves the calling thread into the network namespace of a process.
pub(crate) fn enter_network_of(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
        .context("cannot enter a network namespace")
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// A command in the sandbox if there is one, else on the machine.
pub(crate) fn command(sandbox: Option<&Sandbox>, program: impl AsRef<OsStr>) -> Command {
    match sandbox {
        Some(sandbox) => sandbox.command(program),
        None => Command::new(program),
    }
}

/// What the first process of the sandbox does before it sleeps.
fn script(files: &TempDir, options: &SandboxOptions) -> Result<String> {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (address, name) in &options.hosts {
        writeln!(hosts, "{address} {name}")?;
    }
    let hosts = files.write("hosts", hosts)?;

    let mut script = String::from("ip link set lo up\n");
    for address in &options.addresses {
        let suffix = if address.is_ipv4() {
            "/32"
        } else {
            "/128 nodad"
        };
        writeln!(script, "ip address add {address}{suffix} dev lo")?;
    }
    writeln!(script, "mount --bind '{}' /etc/hosts", hosts.display())?;
    if let Some(nameserver) = options.nameserver {
        let text = format!("nameserver {nameserver}\noptions timeout:1 attempts:2\n");
        let resolv = files.write("resolv.conf", text)?;
        writeln!(
            script,
            "mount --bind '{}' /etc/resolv.conf",
            resolv.display()
        )?;
    }
    script.push_str("echo ready\nexec sleep infinity >/dev/null\n");
    Ok(script)
}
