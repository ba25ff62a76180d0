//! A node with one pod, without a cluster: a cgroup, a network namespace with a link to the
//! host, and an upstream on the host that tells what it saw.

mod links;
mod open;

pub(crate) use links::{HOOKS, SHARED_HOOKS, attached};

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use postern::{
    datapath::{DatapathError, Succession, unload},
    limits::Tuning,
    node::{Binding, Granted, Node, NodeError},
    proxy::Proxy,
    state::{
        Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy,
        OnUntrustedCa, Protocol, Scheme,
    },
    tls::{Authority, Interceptor, Roots},
    workload::{Cgroup, NetNs, PolicyId, Workload},
};
use proxy_common::maps::ABI;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use testkit::{Pki, Sandbox, SandboxOptions, run_ok};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{output, stdout};
use open::Open;

/// What curl says when it is refused.
pub(crate) const CURL_REFUSED: i32 = 7;
pub(crate) const POLICY: PolicyId = PolicyId(1);
/// Longer than any test.
pub(crate) const PATIENCE: Duration = Duration::from_hours(1);
/// How many times slower this machine is than one of production; 1 if it is not set.
const SLOWNESS: &str = "POSTERN_TEST_SLOWNESS";

fn slowness() -> u32 {
    let times = std::env::var(SLOWNESS).ok();
    times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A time that holds in production, stretched to this machine.
pub(crate) fn stretched(time: Duration) -> Duration {
    time * slowness()
}

/// How often to do something that takes a second or so each time.
pub(crate) fn rounds(of_production: usize) -> usize {
    if slowness() > 1 {
        of_production.div_ceil(10)
    } else {
        of_production
    }
}

/// Directory of what is pinned, below that of an agent.
pub(crate) fn abi() -> String {
    format!("abi{ABI}")
}

/// The only policy grants these.
pub(crate) fn policy(granted: &[Granted]) -> BTreeMap<PolicyId, Vec<Granted>> {
    BTreeMap::from([(POLICY, granted.to_vec())])
}

/// A Connector with a bearer token.
pub(crate) fn connector(
    id: u32,
    host: IpAddr,
    scheme: Scheme,
    port: u16,
    token: &str,
) -> Connector {
    Connector {
        id: ConnectorId(id),
        namespace: "default".into(),
        name: format!("c{id}"),
        class: "generic-bearer".into(),
        address: Address {
            scheme,
            host: host.to_string(),
            port,
            path: String::new(),
        },
        extensions: Vec::new(),
        protocol: Protocol::Http,
        credential: Some(Credential::Bearer {
            token: token.into(),
        }),
        client_authorization: ClientAuthorization::Replace,
        failure_policy: FailurePolicy::Closed,
        on_untrusted_ca: OnUntrustedCa::Fail,
        extra_roots: Arc::new([]),
    }
}

/// In its first generation.
pub(crate) fn granted(connector: Connector) -> Granted {
    Granted {
        connector: Arc::new(connector),
        binding: Binding::of_file(),
    }
}

/// What an agent needs to serve connections to a host.
pub(crate) fn proxy_for(host: IpAddr) -> Result<(Arc<Proxy>, String)> {
    let (authority, root_pem) = Authority::with_root(&[host.to_string()])?;
    let interceptor = Interceptor::new()?;
    interceptor.set_authority(authority);
    let proxy = Arc::new(Proxy {
        policies: ArcSwap::default(),
        interceptor,
        resolver: Arc::default(),
        admission: Arc::default(),
        counters: Arc::default(),
        tuning: Tuning::default(),
    });
    Ok((proxy, root_pem))
}

pub(crate) struct Pod {
    pub(crate) cgroup: Cgroup,
    pub(crate) sandbox: Sandbox,
    /// Address of the pod, and that of the host on their link.
    pub(crate) address: IpAddr,
    pub(crate) host: IpAddr,
    /// Another address of the host on that link.
    pub(crate) secondary: IpAddr,
    pins: PathBuf,
    pki: Pki,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Result<Self> {
        /// Tests run at the same time, each with a network of its own.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let sandbox = Sandbox::new(&SandboxOptions::default())?;
        let [host, pod, secondary] = addresses(std::process::id(), n);
        let link = format!("pt{}-{n}", std::process::id());
        let pid = sandbox.pid().to_string();
        run_ok(words(
            Command::new("ip"),
            &format!("link add {link} type veth peer name eth0 netns {pid}"),
        ))?;
        for (command, text) in [
            (
                Command::new("ip"),
                format!("address add {host}/29 dev {link}"),
            ),
            (
                Command::new("ip"),
                format!("address add {secondary}/29 dev {link}"),
            ),
            (Command::new("ip"), format!("link set {link} up")),
            (
                sandbox.command("ip"),
                format!("address add {pod}/29 dev eth0"),
            ),
            (sandbox.command("ip"), "link set eth0 up".to_owned()),
        ] {
            run_ok(words(command, &text))?;
        }
        let unique = format!("postern-test-{}-{name}", std::process::id());
        Ok(Self {
            cgroup: Cgroup::create(&unique, Path::new("/run/postern-test-cgroups"))?,
            sandbox,
            address: pod.into(),
            host: host.into(),
            secondary: secondary.into(),
            pins: Path::new("/sys/fs/bpf").join(unique),
            pki: Pki::new()?,
        })
    }

    /// Where the agents of this test pin.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Where a map or link is pinned.
    pub(crate) fn pinned(&self, name: &str) -> PathBuf {
        self.pins.join(abi()).join(name)
    }

    pub(crate) fn proxy(&self) -> Result<Arc<Proxy>> {
        self.proxy_with_root().map(|(proxy, _)| proxy)
    }

    /// The same, and the root that its clients have to trust, in PEM.
    pub(crate) fn proxy_with_root(&self) -> Result<(Arc<Proxy>, String)> {
        proxy_for(self.host)
    }

    /// An agent on this node, in the place of the one that runs, if one does.
    pub(crate) async fn take_over(&self) -> Result<Node> {
        Ok(self.node(Succession::TakeOver).await?)
    }

    /// The only agent on this node, after others that are gone. What a test starts meanwhile may
    /// keep the lock of one that was dropped for a moment, until it is another program.
    pub(crate) async fn only_agent(&self) -> Result<Node> {
        for _ in 0..1000 {
            match self.node(Succession::Refuse).await {
                Err(NodeError::Datapath(DatapathError::Held { .. })) => {}
                node => return Ok(node?),
            }
            sleep(Duration::from_millis(10)).await;
        }
        bail!("an agent stays")
    }

    pub(crate) async fn node(&self, succession: Succession) -> Result<Node, NodeError> {
        let proxy = self.proxy().expect("a proxy");
        Node::take_over(proxy, self.cgroup.levels(), &self.pins, succession).await
    }

    /// An agent on this node that serves the pod, with these grants.
    pub(crate) async fn agent(&self, granted: &[Granted]) -> Result<Node> {
        let mut node = self.take_over().await?;
        self.serve(&mut node, granted)?;
        Ok(node)
    }

    /// What an agent does once it has its first snapshot. The kernel counts on it for as long
    /// as a test lasts, because few tests let it give signs of life.
    pub(crate) fn serve(&self, node: &mut Node, granted: &[Granted]) -> Result<()> {
        node.set_grace(PATIENCE)?;
        let refused = node.set_policies(policy(granted), &Roots::none())?;
        ensure!(refused.is_empty(), "{refused:?}");
        self.enrol(node)?;
        node.attach(self.cgroup.directory())?;
        node.forget_strangers(|_| false)?;
        Ok(())
    }

    pub(crate) fn enrol(&self, node: &mut Node) -> Result<()> {
        let workload = Workload {
            cgroup_id: self.cgroup.id(),
            name: "default/pod".into(),
            policy: POLICY,
        };
        let path = format!("/proc/{}/ns/net", self.sandbox.pid());
        Ok(node.enrol(workload, NetNs::open(Path::new(&path))?, self.cgroup.path())?)
    }

    /// A Connector with a bearer token, in its first generation.
    pub(crate) fn connector(&self, id: u32, scheme: Scheme, port: u16, token: &str) -> Granted {
        let mut connector = connector(id, self.host, scheme, port, token);
        connector.extra_roots = CertificateDer::pem_file_iter(self.pki.ca())
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .collect();
        granted(connector)
    }

    /// A server on the host that answers each request with the address and the
    /// `Authorization` that it came with.
    pub(crate) async fn upstream(&self, scheme: Scheme) -> Result<u16> {
        self.upstream_at(self.host, scheme).await
    }

    /// The same on another address of the host.
    pub(crate) async fn upstream_at(&self, ip: IpAddr, scheme: Scheme) -> Result<u16> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let port = listener.local_addr()?.port();
        let files = self.pki.server(&[&self.host.to_string()])?;
        let chain = CertificateDer::pem_file_iter(&files.cert)?.collect::<Result<_, _>>()?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key)?)?;
        let tls = (scheme == Scheme::Https).then(|| TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => tell(tls.accept(stream).await?, peer).await,
                        None => tell(stream, peer).await,
                    }
                });
            }
        });
        Ok(port)
    }

    pub(crate) fn url(&self, port: u16) -> String {
        format!("http://{}:{port}/", self.host)
    }

    /// A command of the pod.
    pub(crate) fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut shell = self.sandbox.command("timeout");
        shell
            .args(["300", "bash", "-c"])
            .arg(format!("echo 0 > \"$0/cgroup.procs\" || exit 99; {script}"))
            .arg(self.cgroup.path())
            .args(arguments);
        shell
    }

    pub(crate) fn curl(&self, arguments: &[&str]) -> Result<Output> {
        let script = "exec curl --silent --max-time 20 --noproxy '*' \"$@\"";
        output(self.command(script, arguments))
    }

    /// What the upstream tells of a new connection by curl.
    pub(crate) fn seen(&self, arguments: &[&str]) -> Result<String> {
        let output = self.curl(arguments)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(stdout(&output))
    }

    /// A connection that is kept open.
    pub(crate) fn open(&self, port: u16) -> Result<Open> {
        let script = "exec 3<>\"/dev/tcp/$1/$2\" 4<&0 || exit 98; cat <&4 >&3 & cat <&3; kill $!";
        let command = self.command(script, &[&self.host.to_string(), &port.to_string()]);
        Open::start(command)
    }

    /// Waits until exactly these programs are attached to the pod's cgroup. The kernel
    /// releases a link some time after its last name is gone.
    pub(crate) async fn attaches(&self, hooks: &[&str]) -> Result<()> {
        settled(|| Ok(self.attached()? == hooks))
            .await
            .with_context(|| format!("attached: {:?}", self.attached()))
    }

    /// Programs attached to the pod's cgroup, by hook.
    fn attached(&self) -> Result<Vec<String>> {
        attached(self.cgroup.id())
    }

    /// Sockets of the pod's namespace in a state, as `ss` calls it.
    pub(crate) fn sockets(&self, state: &str) -> Result<usize> {
        let mut list = self.sandbox.command("ss");
        list.args(["--numeric", "--tcp", "--no-header", "state", state]);
        Ok(stdout(&output(list)?).lines().count())
    }

    /// Descriptors of this process that hold the pod's namespace.
    pub(crate) fn held(&self) -> Result<usize> {
        let namespace = std::fs::read_link(format!("/proc/{}/ns/net", self.sandbox.pid()))?;
        let descriptors = std::fs::read_dir("/proc/self/fd")?;
        Ok(descriptors
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| *target == namespace)
            .count())
    }
}

/// Waits until something holds that other threads bring about.
pub(crate) async fn settled(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..1000 {
        if holds()? {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!("it never came to that")
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = unload(&self.pins) {
            eprintln!("what is pinned stays: {error}");
        }
    }
}

async fn tell<IO>(mut io: IO, peer: SocketAddr) -> std::io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let authorization = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization.map_or("nothing", |(_, value)| value);
        let body = format!("{} {authorization}", peer.ip());
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        io.write_all(answer.as_bytes()).await?;
    }
}

/// Of a link: the host's end, the pod's, and another of the host's. They are in a network of
/// eight addresses that no other process uses: a part of 100.64.0.0/10 (RFC 6598).
fn addresses(pid: u32, n: u8) -> [Ipv4Addr; 3] {
    let network = (pid % 8192) << 6 | u32::from(n % 64);
    let network = Ipv4Addr::new(100, 64, 0, 0).to_bits() | network << 3;
    [1, 2, 3].map(|last| Ipv4Addr::from_bits(network + last))
}

fn words(mut command: Command, text: &str) -> Command {
    command.args(text.split(' '));
    command
}
