//! A network with a server, haproxy and Postern.

use std::{env, net::IpAddr, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use testkit::{Sandbox, SandboxOptions, Server, TempDir, run_ok};

use crate::peer::{Load, Took};

const HOST: &str = "api.test";
const ADDRESS: &str = "192.0.2.10";
const PORT: u16 = 443;
const HAPROXY_PORT: u16 = 8443;

/// How a client gets to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Postern,
    Haproxy,
}

impl Way {
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("direct", Self::Direct),
        ("Postern", Self::Postern),
        ("haproxy, `option splice-auto`", Self::Haproxy),
    ];
}

pub(crate) struct World {
    /// Before the sandbox, so that they end first.
    haproxy: Server,
    _server: Server,
    sandbox: Sandbox,
    manifest: PathBuf,
    program: PathBuf,
    _files: TempDir,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let address: IpAddr = ADDRESS.parse()?;
        let sandbox = Sandbox::new(&SandboxOptions::default().host(HOST, address))?;
        let files = TempDir::new("bench-splice")?;
        // Short connections leave ports behind that could not be used again for a minute.
        let mut reuse = sandbox.command("sh");
        reuse.args(["-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"]);
        run_ok(reuse)?;

        let program = env::current_exe().context("cannot find this program")?;
        let mut serve = sandbox.command(&program);
        serve.args(["server", &format!("{ADDRESS}:{PORT}")]);
        let server = Server::listening(&serve, &files.join("server.log"), PORT)?;

        let config = files.write("haproxy.cfg", haproxy_config())?;
        let mut serve = sandbox.command("haproxy");
        serve.args(["-db", "-f"]).arg(config);
        let haproxy = Server::listening(&serve, &files.join("haproxy.log"), HAPROXY_PORT)?;
        let manifest = files.write("connectors.yaml", manifest())?;
        Ok(Self {
            haproxy,
            _server: server,
            sandbox,
            manifest,
            program,
            _files: files,
        })
    }

    /// Runs a client; what it took.
    pub(crate) fn client(&self, way: Way, load: &Load) -> Result<Took> {
        let (mut command, port, proxy) = match way {
            Way::Direct => (self.sandbox.command(&self.program), PORT, 0),
            Way::Haproxy => (
                self.sandbox.command(&self.program),
                HAPROXY_PORT,
                self.haproxy.pid(),
            ),
            Way::Postern => (self.postern(), PORT, 1),
        };
        command
            .args(["client", &format!("{ADDRESS}:{port}")])
            .args([load.connections, load.bytes].map(|n| n.to_string()))
            .arg(proxy.to_string());
        let output = run_ok(command)?;
        let text = String::from_utf8(output.stdout).context("a client wrote no text")?;
        let (seconds, proxy) = text.trim().split_once(' ').context("not two figures")?;
        Ok(Took {
            seconds: seconds.parse()?,
            proxy: proxy.parse()?,
        })
    }

    fn postern(&self) -> Command {
        let mut run = self.sandbox.command(env!("CARGO_BIN_EXE_postern"));
        run.args(["run", "--mode", "transparent", "-f"])
            .arg(&self.manifest)
            .arg("--")
            .arg(&self.program);
        run
    }
}

/// As large pipes as Postern's.
fn haproxy_config() -> String {
    format!(
        "global\n  maxconn 1000\n  tune.pipesize 262144\n\
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
