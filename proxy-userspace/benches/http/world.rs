//! A network with an upstream and the proxies in front of it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testkit::{Certificate, Pki, Sandbox, SandboxOptions, Server, TempDir};

use crate::{
    load::{self, Report},
    peers::{self, Files, Ports},
    processor,
    upstream::{self, BLOB, Served, TOKEN},
};

pub(crate) const HOST: &str = "api.test";
const ADDRESS: &str = "192.0.2.10";
/// What a shell says when a command has ended.
const END: &str = "-- end --";
/// How long connections are opened and used before anything is measured, and how long it is.
const WARM_UP: Duration = Duration::from_millis(700);
const WINDOW: Duration = Duration::from_millis(1_200);
/// How long the load runs: whole seconds are what it takes.
const LOAD: Duration = Duration::from_secs(2);
/// What a shell says when it takes commands.
const READY: &str = "-- ready --";

/// Whether connections have TLS, on both sides of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scheme {
    Plain,
    Tls,
}

/// What stands between load and upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Nothing.
    Direct,
    /// Postern, to which the kernel redirects.
    Transparent,
    /// The same with another build of it.
    #[value(skip)]
    Before,
    Nginx,
    Haproxy,
    Envoy,
}

/// How long clients keep their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As long as the load runs.
    Always,
    /// For one request: with TLS, a full handshake for each.
    Never,
}

/// What one slice showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) report: Report,
    /// Of the proxy; `None` where there is none.
    pub(crate) cost: Option<Cost>,
}

/// What a proxy took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Of a processor, in seconds, for each request.
    pub(crate) time: f64,
    /// Share of its processor that it had.
    pub(crate) busy: f64,
    /// Resident, KiB.
    pub(crate) memory: u64,
}

impl Cost {
    pub(crate) fn memory_mib(&self) -> f64 {
        number(self.memory) / 1024.0
    }
}

pub(crate) struct World {
    ways: Vec<Standing>,
    served: Served,
    _sandbox: Sandbox,
    _pki: Pki,
    _files: TempDir,
}

/// One way, ready for requests.
struct Standing {
    way: Way,
    /// Where its load runs.
    shell: Shell,
    ports: Ports,
    pid: Option<u32>,
    _server: Option<Server>,
}

impl World {
    /// Starts these ways; `before` is another build of Postern, if one is to be compared with.
    pub(crate) fn new(ways: &[Way], before: Option<&Path>) -> Result<Self> {
        let address: IpAddr = ADDRESS.parse()?;
        let sandbox = Sandbox::new(&SandboxOptions::default().host(HOST, address))?;
        let pki = Pki::new()?;
        let files = TempDir::new("bench-http")?;
        let certificate = pki.server(&[HOST])?;
        let [plain, tls] = [80, 443].map(|port| SocketAddr::new(address, port));
        let served = upstream::start(&sandbox, plain, tls, &certificate)?;
        let ways = ways
            .iter()
            .map(|way| {
                let postern = match before {
                    Some(before) if *way == Way::Before => before,
                    _ => Path::new(env!("CARGO_BIN_EXE_postern")),
                };
                start(*way, postern, &sandbox, &pki, &files, &certificate)
                    .with_context(|| format!("cannot start {way:?}"))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            ways,
            served,
            _sandbox: sandbox,
            _pki: pki,
            _files: files,
        })
    }

    /// Puts load on one of the ways for a while.
    pub(crate) fn slice(
        &mut self,
        way: Way,
        scheme: Scheme,
        connections: u32,
        kept: Kept,
    ) -> Result<Slice> {
        let standing = self.standing(way)?;
        let mut fields = standing.fields();
        if kept == Kept::Never {
            fields.push_str(" --header 'Connection: close'");
        }
        let command = load::command(&standing.url(scheme, "/"), connections, LOAD, &fields);
        let (mut slice, output) = self.measured(way, &command)?;
        slice.report = load::report(&output)?;
        Ok(slice)
    }

    /// Has one of the ways shake hands with clients that make one request each: in full, or
    /// with a session that they have from before.
    pub(crate) fn handshakes(&mut self, way: Way, resumed: bool) -> Result<Slice> {
        let port = self.standing(way)?.ports.1;
        let command = load::handshakes(HOST, port, LOAD, resumed);
        let (mut slice, output) = self.measured(way, &command)?;
        slice.report = load::handshakes_report(&output, resumed);
        Ok(slice)
    }

    fn standing(&mut self, way: Way) -> Result<&mut Standing> {
        let mut ways = self.ways.iter_mut();
        ways.find(|standing| standing.way == way)
            .context("this one was not started")
    }

    /// What the upstream and the proxy did within a window in which a command is at work, and
    /// what the command wrote.
    fn measured(&mut self, way: Way, command: &str) -> Result<(Slice, String)> {
        let served = self.served.clone();
        let standing = self.standing(way)?;
        standing.shell.start(command)?;
        sleep(WARM_UP);
        let before = (Instant::now(), served.requests(), standing.time()?);
        sleep(WINDOW);
        let after = (Instant::now(), served.requests(), standing.time()?);
        let memory = standing.pid.map(processor::memory_of).transpose()?;
        let output = standing.shell.output()?;
        let seconds = (after.0 - before.0).as_secs_f64();
        let requests = number(after.1 - before.1);
        let time = |(before, after): (Duration, Duration)| after.saturating_sub(before);
        let cost = before.2.zip(after.2).map(time).zip(memory);
        let slice = Slice {
            rate: requests / seconds,
            report: Report::default(),
            cost: cost.map(|(time, memory)| Cost {
                time: time.as_secs_f64() / requests,
                busy: time.as_secs_f64() / seconds,
                memory,
            }),
        };
        Ok((slice, output))
    }

    /// Has one of the ways bring the large answer; how long that took, what it cost its
    /// processor for each byte, and its most memory meanwhile.
    pub(crate) fn pull(&mut self, way: Way, scheme: Scheme) -> Result<Slice> {
        let standing = self.standing(way)?;
        let fields = standing.fields();
        let command = format!(
            "curl --silent --insecure --http1.1 --noproxy '*' --output /dev/null \
             --write-out '%{{http_code}} %{{size_download}}' {fields} {}",
            standing.url(scheme, BLOB.0)
        );
        let (start, before) = (Instant::now(), standing.time()?);
        standing.shell.start(&command)?;
        let output = standing.shell.output()?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(
            output.trim() == format!("200 {}", BLOB.1),
            "the large answer did not come whole: {output}"
        );
        let spent = before
            .zip(standing.time()?)
            .map(|(before, after)| after.saturating_sub(before).as_secs_f64());
        let memory = standing.pid.map(processor::memory_of).transpose()?;
        let bytes = number(BLOB.1);
        Ok(Slice {
            rate: bytes / seconds,
            report: Report::default(),
            cost: spent.zip(memory).map(|(spent, memory)| Cost {
                time: spent / bytes,
                busy: spent / seconds,
                memory,
            }),
        })
    }
}

impl Standing {
    fn url(&self, scheme: Scheme, path: &str) -> String {
        let (name, port) = match scheme {
            Scheme::Plain => ("http", self.ports.0),
            Scheme::Tls => ("https", self.ports.1),
        };
        format!("{name}://{HOST}:{port}{path}")
    }

    /// What the load sends by itself, as an option.
    fn fields(&self) -> String {
        match self.way {
            Way::Direct => format!("--header 'Authorization: Bearer {TOKEN}'"),
            _ => String::new(),
        }
    }

    fn time(&self) -> Result<Option<Duration>> {
        self.pid.map(processor::time_of).transpose()
    }
}

fn start(
    way: Way,
    program: &Path,
    sandbox: &Sandbox,
    pki: &Pki,
    files: &TempDir,
    certificate: &Certificate,
) -> Result<Standing> {
    let ca = pki.ca().display().to_string();
    let told = Files {
        folder: files,
        address: ADDRESS,
        certificate,
        ca: &ca,
    };
    let (command, ports) = match way {
        Way::Direct | Way::Transparent | Way::Before => {
            let shell = if way == Way::Direct {
                sandbox.command("sh")
            } else {
                postern(program, sandbox, pki, files)?
            };
            let (shell, pid) = Shell::open(&shell)?;
            return Ok(Standing {
                way,
                shell,
                ports: (80, 443),
                pid: (way != Way::Direct).then_some(pid),
                _server: None,
            });
        }
        Way::Nginx => {
            let ports = (1080, 1443);
            let file = files.write("nginx.conf", peers::nginx(&told, ports))?;
            let mut nginx = pinned(sandbox, "nginx");
            nginx.arg("-c").arg(file);
            (nginx, ports)
        }
        Way::Haproxy => {
            let ports = (2080, 2443);
            let mut both = fs::read(&certificate.cert)?;
            both.extend(fs::read(&certificate.key)?);
            let pem = files.write("haproxy.pem", both)?.display().to_string();
            let file = files.write("haproxy.cfg", peers::haproxy(&told, &pem, ports))?;
            let mut haproxy = pinned(sandbox, "haproxy");
            haproxy.arg("-db").arg("-f").arg(file);
            (haproxy, ports)
        }
        Way::Envoy => {
            let ports = (3080, 3443);
            let file = files.write("envoy.yaml", peers::envoy(&told, ports))?;
            let mut envoy = pinned(sandbox, "envoy");
            envoy.args(["--concurrency", "1", "--disable-hot-restart"]);
            envoy.args(["--log-level", "error", "-c"]).arg(file);
            (envoy, ports)
        }
    };
    let log = files.join(format!("{way:?}.log"));
    let server = Server::listening(&command, &log, ports.1)?;
    let (shell, _) = Shell::open(&sandbox.command("sh"))?;
    Ok(Standing {
        way,
        shell,
        ports,
        pid: Some(server.pid()),
        _server: Some(server),
    })
}

/// A program on the proxies' processor.
fn pinned(sandbox: &Sandbox, program: impl AsRef<OsStr>) -> Command {
    let mut command = sandbox.command("taskset");
    command.args(["--cpu-list", &processor::PROXY.to_string()]);
    command.arg(program);
    command
}

/// `postern run` of a shell, with the same upstream as a Connector, twice.
fn postern(program: &Path, sandbox: &Sandbox, pki: &Pki, files: &TempDir) -> Result<Command> {
    let connector = |name: &str, address: &str| {
        format!(
            "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\n\
             metadata:\n  name: {name}\n\
             spec:\n  connectorClassName: generic-bearer\n  address: {address}\n  \
               caCertSecretRef:\n    name: ca\n  \
               auth:\n    name: bearerTokenAuth\n    secretRef:\n      name: token\n"
        )
    };
    let secret = |name: &str, kind: &str, key: &str, value: &str| {
        let value = testkit::base64::encode(value);
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: {kind}\n\
             data:\n  {key}: {value}\n"
        )
    };
    let documents = [
        connector("plain", &format!("http://{HOST}")),
        connector("tls", &format!("https://{HOST}")),
        secret("token", "connectors.cpaas.io/bearer-token", "token", TOKEN),
        secret("ca", "Opaque", "ca.crt", &pki.ca_pem()?),
    ];
    let manifest = files.write("connectors.yaml", documents.join("---\n"))?;
    let mut command = pinned(sandbox, program);
    command.args(["run", "--mode", "transparent", "--workers", "1", "-f"]);
    command.arg(manifest).args(["--", "sh"]);
    Ok(command)
}

/// A shell that runs commands beside the upstream; ends with its standard input.
struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn open(command: &Command) -> Result<(Self, u32)> {
        let mut child = testkit::spawn(command, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no output")?;
        let pid = child.id();
        let mut shell = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        shell.start(&format!(
            "taskset --pid --cpu-list {} $$",
            processor::OTHERS
        ))?;
        shell.output()?;
        shell.start(&format!("ulimit -n 16384; echo {READY}"))?;
        let said = shell.output()?;
        ensure!(said.contains(READY), "the shell does not answer: {said}");
        Ok((shell, pid))
    }

    fn start(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("the shell was closed")?;
        writeln!(input, "{{ {command}; }} </dev/null; echo; echo '{END}'")
            .context("the shell has ended")
    }

    /// What the command wrote, once it has ended.
    fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line)?;
            ensure!(n > 0, "the shell ended; it wrote: {text}");
            if line.trim_end() == END {
                return Ok(text);
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It ends by itself then, and Postern with it.
        self.input = None;
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for a shell: {error}");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
fn number(n: u64) -> f64 {
    n as f64
}
