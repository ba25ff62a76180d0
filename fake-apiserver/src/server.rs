//! The server on its socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::auth::{Identity, Token, Tokens};
use crate::cluster::Cluster;
use crate::handle::Handle;
use crate::http::Service;
use crate::kubeconfig::kubeconfig;
use crate::{generate, tls};

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether it speaks TLS, with a certificate of its own authority. kubectl sends
    /// tokens over TLS only.
    pub tls: bool,
    /// Tokens and whose they are.
    pub tokens: Vec<(String, Token)>,
    /// Who sends a request without a token; with none, such a request gets 401.
    pub anonymous: Option<Identity>,
    /// Whether requests have to be allowed by roles.
    pub enforce_rbac: bool,
    /// Whether a deleted pod that is on a node stays until its node deletes it with a
    /// grace period of zero, as a kubelet does.
    pub graceful_pods: bool,
    /// How often a watch that wants bookmarks gets one.
    pub bookmark_interval: Duration,
}

impl Default for Options {
    /// Plain HTTP on a free loopback port; whoever comes may do everything.
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: false,
            tokens: Vec::new(),
            anonymous: Some(Identity::admin()),
            enforce_rbac: false,
            graceful_pods: true,
            bookmark_interval: Duration::from_secs(5),
        }
    }
}

/// A running server; it stops when the value is dropped.
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    address: SocketAddr,
    authority: Option<String>,
    folder: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server on the current runtime.
    pub async fn start(options: Options) -> Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let (acceptor, authority) = if options.tls {
            let (acceptor, authority) = tls::acceptor(address.ip())?;
            (Some(acceptor), Some(authority))
        } else {
            (None, None)
        };
        let mut tokens = Tokens::default();
        for (token, meaning) in options.tokens {
            tokens.insert(&token, meaning);
        }
        let handle = Handle::new(Cluster::new(tokens, options.graceful_pods));
        let service = Arc::new(Service {
            handle: handle.clone(),
            anonymous: options.anonymous,
            enforce_rbac: options.enforce_rbac,
            bookmark_interval: options.bookmark_interval,
            address: address.to_string(),
        });
        let folder = std::env::temp_dir().join(format!("fake-apiserver-{}", generate::uid()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let task = tokio::spawn(accept(listener, acceptor, service));
        let server = Self { handle, address, authority, folder, task };
        server.write_kubeconfig(&server.folder.join("kubeconfig"), None)?;
        Ok(server)
    }

    /// What a test can see and do; it may outlive the server.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.authority.is_some() { "https" } else { "http" }, self.address)
    }

    /// The certificate that clients have to trust, as PEM; none without TLS.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self, token: Option<&str>) -> String {
        kubeconfig(&self.url(), self.authority(), token)
    }

    /// Writes a kubeconfig for it.
    pub fn write_kubeconfig(&self, path: &Path, token: Option<&str>) -> Result<()> {
        std::fs::write(path, self.kubeconfig(token)).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The kubectl of the machine, with a cache of its own.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.folder.join("kubeconfig"));
        command.arg("--cache-dir").arg(self.folder.join("cache"));
        command.env_remove("KUBECONFIG");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.handle.set_away(true);
        // It holds nothing but a cache; a folder that stays behind harms nobody.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, service: Arc<Service>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if service.handle.epoch.borrow().away {
            continue;
        }
        tokio::spawn(connection(socket, acceptor.clone(), Arc::clone(&service)));
    }
}

async fn connection(socket: TcpStream, acceptor: Option<TlsAcceptor>, service: Arc<Service>) {
    // Small answers are not to wait for others; a socket that refuses works as well.
    drop(socket.set_nodelay(true));
    match acceptor {
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(socket).await {
                serve(stream, service).await;
            }
        }
        None => serve(socket, service).await,
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: Arc<Service>) {
    let mut epoch = service.handle.epoch.subscribe();
    let begun = epoch.borrow_and_update().connections;
    let answers = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answers);
    tokio::select! {
        // A client that goes away in the middle is no fault of the server.
        ended = connection => drop(ended),
        _ = epoch.wait_for(|epoch| epoch.connections != begun) => {}
    }
}
