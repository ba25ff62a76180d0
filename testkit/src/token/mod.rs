//! A server that gives out registry tokens.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{Shutdown, shutdown};

use self::signer::Signer;
use crate::{
    Certificate, Content, Nginx, RegistryAuth, Sandbox, Site, SiteAuth, free_port, sandbox,
};

mod answer;
mod http;
mod signer;

/// How to start a [`TokenServer`].
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// Where it listens; a free port on loopback if unset.
    pub address: Option<SocketAddr>,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<Certificate>,
    /// The one user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// Whether clients that show no name get tokens for pulling.
    pub anonymous_pull: bool,
    /// The registry that tokens are for.
    pub service: String,
    /// How long a token is valid. A registry adds a minute of tolerance of its own.
    pub lifetime_seconds: u64,
    /// The repositories that the user may use; all of them if unset.
    pub repositories: Option<Vec<String>>,
}

impl TokenOptions {
    /// A user who may use everything, by tokens that are valid for five minutes.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            address: None,
            tls: None,
            user: user.to_owned(),
            password: password.to_owned(),
            anonymous_pull: false,
            service: "registry".to_owned(),
            lifetime_seconds: 300,
            repositories: None,
        }
    }
}

/// What somebody asked a [`TokenServer`] for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// `GET`, or `POST` for the `OAuth2` form.
    pub method: String,
    /// The registry it named.
    pub service: Option<String>,
    /// The scopes it named.
    pub scopes: Vec<String>,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    // Terminates TLS, if there is any.
    front: Option<Nginx>,
}

#[derive(Debug)]
struct Shared {
    options: TokenOptions,
    signer: Signer,
    requests: Mutex<Vec<TokenRequest>>,
}

const ISSUER: &str = "token-server";
/// Keeps a client that sends nothing from holding a thread for ever.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

impl TokenServer {
    /// Starts one, inside a sandbox or on the machine.
    pub fn start(sandbox: Option<&Sandbox>, options: &TokenOptions) -> Result<Self> {
        let address = match options.address {
            Some(address) => address,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let inner = match options.tls {
            Some(_) => (Ipv4Addr::LOCALHOST, free_port()?).into(),
            None => address,
        };
        let listener = Arc::new(listen(sandbox, inner)?);
        let shared = Arc::new(Shared {
            options: options.clone(),
            signer: Signer::new(ISSUER)?,
            requests: Mutex::default(),
        });
        let thread = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            thread::spawn(move || serve(&listener, &shared))
        };
        let mut server = Self {
            address,
            shared,
            listener,
            thread: Some(thread),
            front: None,
        };
        if let Some(certificate) = &options.tls {
            let site = Site {
                name: "_".to_owned(),
                address,
                tls: Some(certificate.clone()),
                auth: SiteAuth::None,
                content: Content::Proxy(inner),
            };
            server.front = Some(Nginx::start(sandbox, &[site])?);
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a registry needs to accept the tokens and to send clients to `host`, a name
    /// and port of this server.
    pub fn registry_auth(&self, host: &str) -> RegistryAuth {
        let scheme = if self.shared.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        RegistryAuth::Token {
            realm: format!("{scheme}://{host}/token"),
            service: self.shared.options.service.clone(),
            issuer: ISSUER.to_owned(),
            roots: self.certificate(),
        }
    }

    /// The certificate that signs.
    pub fn certificate(&self) -> PathBuf {
        self.shared.signer.certificate()
    }

    /// What it was asked so far, oldest first.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        // Wakes the thread up: its `accept` fails from now on.
        self.front = None;
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A socket belongs to the network in which it was made, so a thread goes there to make it.
fn listen(sandbox: Option<&Sandbox>, address: SocketAddr) -> Result<TcpListener> {
    let pid = sandbox.map(Sandbox::pid);
    let bind = move || {
        if let Some(pid) = pid {
            sandbox::enter_network_of(pid)?;
        }
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
    };
    thread::spawn(bind)
        .join()
        .map_err(|_| anyhow!("the listening thread panicked"))?
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A client that breaks off is its own problem.
            converse(stream, &shared).ok();
        });
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(CLIENT_LIMIT))?;
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    let question = http::read(&mut stream)?;
    let (status, body) = shared.answer(&question);
    shared
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(TokenRequest {
            method: question.method.clone(),
            service: question.first("service").map(str::to_owned),
            scopes: question
                .all("scope")
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect(),
            authorization: question.authorization.clone(),
            status,
        });
    stream.write_all(http::response(status, &body).as_bytes())?;
    Ok(())
}
