//! A network with a server, haproxy and Postern.

use std::{
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use testkit::{Sandbox, SandboxOptions, Server, TempDir, run_ok};

use crate::peer::{Load, Took};

const HOST: &str = "api.test";
const ADDRESS: &str = "192.0.2.10";
const PORT: u16 = 443;
const HAPROXY_PORT: u16 = 8443;
/// The processor that the proxies have for themselves.
const PROXY: &str = "0";
/// The one on which client and server are.
const OTHERS: &str = "1";

/// How a client gets to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Postern,
    Haproxy,
    /// The other `postern`.
    Before,
}

impl Way {
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("direct", Self::Direct),
        ("Postern", Self::Postern),
        ("haproxy, `option splice-auto`", Self::Haproxy),
        ("Postern, before", Self::Before),
    ];
}

pub(crate) struct World {
    /// Before the sandbox, so that they end first.
    haproxy: Server,
    _server: Server,
    sandbox: Sandbox,
    manifest: PathBuf,
    program: PathBuf,
    before: Option<PathBuf>,
    _files: TempDir,
}

impl World {
    pub(crate) fn new(before: Option<PathBuf>) -> Result<Self> {
        let address: IpAddr = ADDRESS.parse()?;
        let sandbox = Sandbox::new(&SandboxOptions::default().host(HOST, address))?;
        let files = TempDir::new("bench-splice")?;
        // Short connections leave ports behind that could not be used again for a minute.
        let mut reuse = sandbox.command("sh");
        reuse.args(["-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"]);
        run_ok(reuse)?;

        let program = env::current_exe().context("cannot find this program")?;
        let mut serve = pinned(&sandbox, OTHERS);
        serve
            .arg(&program)
            .args(["server", &format!("{ADDRESS}:{PORT}")]);
        let server = Server::listening(&serve, &files.join("server.log"), PORT)?;

        let config = files.write("haproxy.cfg", haproxy_config())?;
        let mut serve = pinned(&sandbox, PROXY);
        serve.args(["haproxy", "-db", "-f"]).arg(config);
        let haproxy = Server::listening(&serve, &files.join("haproxy.log"), HAPROXY_PORT)?;
        let manifest = files.write("connectors.yaml", manifest())?;
        Ok(Self {
            haproxy,
            _server: server,
            sandbox,
            manifest,
            program,
            before,
            _files: files,
        })
    }

    /// Whether there is this way.
    pub(crate) fn has(&self, way: Way) -> bool {
        way != Way::Before || self.before.is_some()
    }

    /// Runs a client; what it took.
    pub(crate) fn client(&self, way: Way, load: &Load) -> Result<Took> {
        let (mut command, port, proxy) = match way {
            Way::Direct => (self.sandbox.command("taskset"), PORT, 0),
            Way::Haproxy => (
                self.sandbox.command("taskset"),
                HAPROXY_PORT,
                self.haproxy.pid(),
            ),
            Way::Postern => (
                self.postern(Path::new(env!("CARGO_BIN_EXE_postern"))),
                PORT,
                1,
            ),
            Way::Before => {
                let program = self.before.as_deref().context("no other postern")?;
                (self.postern(program), PORT, 1)
            }
        };
        command
            .args(["--cpu-list", OTHERS])
            .arg(&self.program)
            .args(["client", &format!("{ADDRESS}:{port}")])
            .args([load.connections, load.bytes, load.rate].map(|n| n.to_string()))
            .arg(proxy.to_string());
        let output = run_ok(command)?;
        let text = String::from_utf8(output.stdout).context("a client wrote no text")?;
        let (seconds, proxy) = text.trim().split_once(' ').context("not two figures")?;
        Ok(Took {
            seconds: seconds.parse()?,
            proxy: proxy.parse()?,
        })
    }

    fn postern(&self, program: &Path) -> Command {
        let mut run = pinned(&self.sandbox, PROXY);
        run.arg(program)
            .args(["run", "--mode", "transparent", "-f"])
            .arg(&self.manifest)
            .args(["--", "taskset"]);
        run
    }
}

/// A program that runs on one processor.
fn pinned(sandbox: &Sandbox, processor: &str) -> Command {
    let mut command = sandbox.command("taskset");
    command.args(["--cpu-list", processor]);
    command
}

/// As large pipes as Postern's.
fn haproxy_config() -> String {
    format!(
        "global\n  maxconn 1000\n  tune.pipesize 1048576\n\
         defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
           timeout client 1m\n  timeout server 1m\n\
         listen passthrough\n  bind {ADDRESS}:{HAPROXY_PORT}\n  server s {ADDRESS}:{PORT}\n"
    )
}

/// Any Connector at the server's address, so that connections there are redirected.
fn manifest() -> String {
    format!(
        "apiVersion: connectors.postern.dev/v1alpha1\n\
         kind: Connector\n\
         metadata:\n  name: api\n\
         spec:\n  connectorClassName: generic-bearer\n  address: https://{HOST}\n  \
           auth:\n    name: bearerTokenAuth\n    secretRef:\n      name: api\n\
         ---\n\
         apiVersion: v1\nkind: Secret\nmetadata:\n  name: api\n\
         type: connectors.cpaas.io/bearer-token\nstringData:\n  token: none-that-is-used\n"
    )
}
