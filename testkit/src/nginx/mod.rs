//! nginx in front of git repositories, APIs, files and other servers.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Certificate, Sandbox, Server, TempDir, git, sandbox};

mod config;
mod log;

/// One virtual host.
#[derive(Clone, Debug)]
pub struct Site {
    /// The host name that it answers to; the first site of an address also answers to
    /// names that no site has.
    pub name: String,
    /// Where it listens. Sites may share an address.
    pub address: SocketAddr,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<Certificate>,
    /// What a client has to show.
    pub auth: SiteAuth,
    /// What is there.
    pub content: Content,
}

/// What a client of a [`Site`] has to show; else it gets a 401 with a challenge.
#[derive(Clone, Debug)]
pub enum SiteAuth {
    /// Nothing.
    None,
    /// Name and password of the one user.
    Basic {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// A token.
    Bearer(String),
    /// A certificate of the authority in this file, in the TLS handshake; else it gets a 400. Whose
    /// it was shown is in the field `Client-Subject` of the answer.
    Certificate(PathBuf),
}

/// What a [`Site`] serves.
#[derive(Clone, Debug)]
pub enum Content {
    /// Git repositories below a folder, for reading and, with [`SiteAuth::Basic`], writing.
    Git(PathBuf),
    /// The same JSON text for every path.
    Json(String),
    /// The files below a folder.
    Files(PathBuf),
    /// Whatever a server at this address answers over plain HTTP. The client's `Host` and
    /// `Authorization` are passed on.
    Proxy(SocketAddr),
    /// A redirect of every path to this address, with the path appended.
    Redirect(String),
}

/// A request as nginx saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `Host`, or `:authority` in HTTP/2.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query as sent.
    pub uri: String,
    /// What it was answered.
    pub status: u16,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The name in the TLS handshake.
    pub server_name: Option<String>,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    server: Server,
    // One process each, so that stopping the process stops everything.
    _git: Vec<Server>,
    files: TempDir,
}

/// How many git requests can be served at a time.
const GIT_PROCESSES: usize = 4;

impl Nginx {
    /// Starts one, inside a sandbox or on the machine.
    pub fn start(sandbox: Option<&Sandbox>, sites: &[Site]) -> Result<Self> {
        let files = TempDir::new("nginx")?;
        let git = if sites
            .iter()
            .any(|site| matches!(site.content, Content::Git(_)))
        {
            (0..GIT_PROCESSES)
                .map(|n| start_git(sandbox, &files, n))
                .collect::<Result<_>>()?
        } else {
            Vec::new()
        };

        let config = files.write("nginx.conf", config::text(&files, sites)?)?;
        let mut command = sandbox::command(sandbox, "nginx");
        command
            .arg("-e")
            .arg(files.join("errors"))
            .arg("-p")
            .arg(files.path());
        command.arg("-c").arg(config);
        let ports: BTreeSet<_> = sites.iter().map(|site| site.address.port()).collect();
        let server = Server::start(&command, &files.join("log"), |pid| {
            ports.iter().all(|port| crate::net::listens(pid, *port))
        })
        .with_context(|| {
            let errors = fs::read_to_string(files.join("errors")).unwrap_or_default();
            format!("nginx cannot be started: {}", errors.trim())
        })?;
        Ok(Self {
            server,
            _git: git,
            files,
        })
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The requests that were answered so far, oldest first.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let log = fs::read_to_string(self.files.join("access")).context("no access log")?;
        // A line without its end is still being written.
        let complete = log.rfind('\n').map_or("", |end| &log[..end]);
        complete.lines().map(log::parse).collect()
    }

    /// The requests, once there are at least `count`: nginx writes its log after it answered.
    pub fn requests_after(&self, count: usize) -> Result<Vec<Request>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let requests = self.requests()?;
            if requests.len() >= count {
                return Ok(requests);
            }
            if Instant::now() > deadline {
                bail!("nginx answered {} requests, not {count}", requests.len());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start_git(sandbox: Option<&Sandbox>, files: &TempDir, number: usize) -> Result<Server> {
    let socket = git_socket(files, number);
    let mut command = sandbox::command(sandbox, "fcgiwrap");
    command
        .arg("-f")
        .arg("-s")
        .arg(format!("unix:{}", socket.display()));
    git::isolate(&mut command);
    // It listens as soon as it has bound the socket, or nginx retries another process.
    Server::start(&command, &files.join(format!("git-{number}.log")), |_| {
        socket.exists()
    })
    .context("fcgiwrap cannot be started")
}

fn git_socket(files: &TempDir, number: usize) -> PathBuf {
    files.join(format!("git-{number}.sock"))
}
