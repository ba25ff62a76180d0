//! One name asked of the name servers.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    pin::{Pin, pin},
    time::Duration,
};

use hickory_resolver::{
    Resolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    net::{
        DnsError, NetError,
        runtime::{RuntimeProvider, TokioRuntimeProvider},
    },
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use nix::net::if_::{if_indextoname, if_nametoindex};
use tokio::time::timeout;

use super::{
    ResolveError,
    config::{NameServer, NameServers},
};
use crate::limits;

/// The addresses of a name, and for how long they hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
    /// Nobody answered for the family of which there are none.
    pub(super) is_partial: bool,
}

/// What one server says about one name.
enum Said {
    Found(Found),
    No(ResolveError),
    /// It has to be asked of another server.
    Nothing(ResolveError),
}

/// Asks for a name, or for those that it may stand for: each of all servers, `first` before the
/// others, until one gives an answer.
pub(super) async fn ask(
    host: &str,
    config: &NameServers,
    port: u16,
    first: usize,
) -> Result<Found, ResolveError> {
    let servers = Servers::new(config, port, first);
    let mut worst = ResolveError::NotAName;
    for candidate in config.candidates(host) {
        let Ok(name) = Name::from_ascii(&candidate) else {
            continue;
        };
        match servers.ask(&name).await {
            Ok(found) => return Ok(found),
            // The other names would wait as long for nothing.
            Err(error @ ResolveError::Silent(_)) => return Err(error),
            Err(error) => worst = worst.max(error),
        }
    }
    Err(worst)
}

/// The name servers of one lookup. Nothing of them outlives it: the workers' runtimes share no
/// connection, and what is remembered is remembered in one place.
struct Servers {
    servers: Vec<(IpAddr, Result<Resolver<Link>, String>)>,
    attempts: u32,
}

impl Servers {
    fn new(config: &NameServers, port: u16, first: usize) -> Self {
        let mut servers: Vec<_> = config
            .servers
            .iter()
            .map(|server| (server.ip, client(server, config, port)))
            .collect();
        if !servers.is_empty() {
            let first = first % servers.len();
            servers.rotate_left(first);
        }
        Self {
            servers,
            attempts: config.attempts,
        }
    }

    /// Asks in the order of `resolv.conf`: servers need not know the same names, so that the
    /// next one is asked only if this one does not answer.
    async fn ask(&self, name: &Name) -> Result<Found, ResolveError> {
        let mut fault = None;
        for _ in 0..self.attempts {
            for (ip, client) in &self.servers {
                let said = match client {
                    Ok(client) => ask_one(*ip, client, name).await,
                    Err(reason) => Said::Nothing(ResolveError::Failed {
                        server: *ip,
                        reason: reason.clone(),
                    }),
                };
                match said {
                    Said::Found(found) => return Ok(found),
                    Said::No(error) => return Err(error),
                    Said::Nothing(error) => {
                        fault = fault.or(Some(error).filter(|it| !is_silence(it)));
                    }
                }
            }
        }
        Err(fault.unwrap_or_else(|| self.silence()))
    }

    fn silence(&self) -> ResolveError {
        silence(self.servers.iter().map(|(ip, _)| *ip))
    }
}

/// Nobody answered.
pub(super) fn silence(servers: impl Iterator<Item = IpAddr>) -> ResolveError {
    let servers: Vec<_> = servers.map(|ip| ip.to_string()).collect();
    ResolveError::Silent(servers.join(", "))
}

fn is_silence(error: &ResolveError) -> bool {
    matches!(error, ResolveError::Silent(_))
}

/// Asks for both families at once. One will do: many names have but one, and some servers
/// never answer for the other.
async fn ask_one(server: IpAddr, client: &Resolver<Link>, name: &Name) -> Said {
    let mut v4 = pin!(ask_for(server, client, name, RecordType::A));
    let mut v6 = pin!(ask_for(server, client, name, RecordType::AAAA));
    let (v4, v6) = tokio::select! {
        v4 = &mut v4 => {
            let v6 = other_family(server, &v4, v6).await;
            (v4, v6)
        }
        v6 = &mut v6 => (other_family(server, &v6, v4).await, v6),
    };
    match (v4, v6) {
        (Said::Found(mut v4), Said::Found(v6)) => {
            v4.addresses.extend(v6.addresses);
            v4.addresses.truncate(limits::ADDRESSES_PER_NAME);
            v4.ttl = v4.ttl.min(v6.ttl);
            Said::Found(v4)
        }
        (Said::Found(mut one), other) | (other, Said::Found(mut one)) => {
            one.is_partial = matches!(other, Said::Nothing(_));
            Said::Found(one)
        }
        (Said::Nothing(error), _) | (_, Said::Nothing(error)) => Said::Nothing(error),
        (Said::No(a), Said::No(b)) => Said::No(a.max(b)),
    }
}

/// Waits for what is said about one family, when that about the other is there.
async fn other_family(server: IpAddr, one: &Said, other: impl Future<Output = Said>) -> Said {
    if !matches!(one, Said::Found(_)) {
        return other.await;
    }
    let other = timeout(limits::OTHER_FAMILY, other).await;
    other.unwrap_or_else(|_| Said::Nothing(silence([server].into_iter())))
}

async fn ask_for(server: IpAddr, client: &Resolver<Link>, name: &Name, family: RecordType) -> Said {
    let answer = match client.lookup(name.clone(), family).await {
        Ok(answer) => answer,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            return match none.response_code {
                ResponseCode::NXDomain => Said::No(ResolveError::NoName(server)),
                ResponseCode::NoError => Said::No(ResolveError::NoAddress(server)),
                code => failed(server, &code),
            };
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => return failed(server, &code),
        Err(NetError::Timeout) => return Said::Nothing(silence([server].into_iter())),
        Err(NetError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            return Said::Nothing(silence([server].into_iter()));
        }
        Err(error) => return failed(server, &error),
    };
    let mut addresses = Vec::new();
    for ip in answer.answers().iter().filter_map(|it| it.data.ip_addr()) {
        if !addresses.contains(&ip) && addresses.len() < limits::ADDRESSES_PER_NAME {
            addresses.push(ip);
        }
    }
    if addresses.is_empty() {
        return Said::No(ResolveError::NoAddress(server));
    }
    // Aliases on the way to them are among the records.
    let ttl = answer.answers().iter().map(|record| record.ttl).min();
    Said::Found(Found {
        addresses,
        ttl: Duration::from_secs(ttl.unwrap_or_default().into()),
        is_partial: false,
    })
}

fn failed(server: IpAddr, reason: &impl ToString) -> Said {
    Said::Nothing(ResolveError::Failed {
        server,
        reason: reason.to_string(),
    })
}

/// Asks one server a few times over within its time, as UDP wants it; a truncated answer is asked for again over TCP.
fn client(server: &NameServer, config: &NameServers, port: u16) -> Result<Resolver<Link>, String> {
    let mut connections = vec![ConnectionConfig::tcp()];
    if !config.use_vc {
        connections.insert(0, ConnectionConfig::udp());
    }
    for connection in &mut connections {
        connection.port = port;
    }
    let name_server = NameServerConfig::new(server.ip, true, connections);
    let link = Link::of(server.zone.as_deref())?;
    let mut builder =
        Resolver::builder_with_config(ResolverConfig::from_name_servers(vec![name_server]), link);
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = config.timeout;
    options.attempts = 0;
    options.edns0 = config.edns0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    // The kernel's choice leaves out the ports that are reserved on the node.
    options.os_port_selection = true;
    builder.build().map_err(|error| error.to_string())
}

/// Sockets towards a server, on the interface that its address belongs to, if it is link-local:
/// the library's addresses have no zone.
#[derive(Clone, Default)]
struct Link {
    sockets: TokioRuntimeProvider,
    interface: Option<Interface>,
}

#[derive(Clone)]
struct Interface {
    index: u32,
    name: String,
}

impl Link {
    fn of(zone: Option<&str>) -> Result<Self, String> {
        let interface =
            match zone {
                None => None,
                Some(zone) => Some(Interface::of(zone).map_err(|error| {
                    format!("its interface {zone} is not there: {}", error.desc())
                })?),
            };
        Ok(Self {
            sockets: TokioRuntimeProvider::default(),
            interface,
        })
    }
}

impl Interface {
    fn of(zone: &str) -> nix::Result<Self> {
        if let Ok(index) = zone.parse() {
            let name = if_indextoname(index)?.to_string_lossy().into_owned();
            return Ok(Self { index, name });
        }
        let index = if_nametoindex(zone)?;
        Ok(Self {
            index,
            name: zone.to_owned(),
        })
    }
}

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Link {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.sockets.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let server = match (server, &self.interface) {
            (SocketAddr::V6(it), Some(interface)) => {
                SocketAddrV6::new(*it.ip(), it.port(), it.flowinfo(), interface.index).into()
            }
            (server, _) => server,
        };
        self.sockets.connect_tcp(server, local, timeout)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let opening = self.sockets.bind_udp(local, server);
        let interface = self.interface.clone();
        Box::pin(async move {
            let socket = opening.await?;
            if let Some(Interface { name, .. }) = interface {
                socket.bind_device(Some(name.as_bytes()))?;
            }
            Ok(socket)
        })
    }
}
