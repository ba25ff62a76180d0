//! Debian's `docker-registry`.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{Certificate, Sandbox, Server, TempDir, free_port, htpasswd, sandbox};

/// How a registry asks who is there.
#[derive(Clone, Debug, Default)]
pub enum RegistryAuth {
    /// Everybody may do everything.
    #[default]
    None,
    /// Name and password, by the Basic scheme.
    Htpasswd {
        /// The one user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// Tokens that a [`TokenServer`](crate::TokenServer) signs.
    Token {
        /// The address that the challenge sends clients to.
        realm: String,
        /// The name of the registry, as tokens have to name it.
        service: String,
        /// The name of the token server.
        issuer: String,
        /// The certificate whose key signs tokens.
        roots: PathBuf,
    },
}

/// How to start a [`Registry`].
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Where it listens; a free port on loopback if unset.
    pub address: Option<SocketAddr>,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<Certificate>,
    /// How it authenticates.
    pub auth: RegistryAuth,
}

/// A running registry, empty at first; its images go with the value.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    address: SocketAddr,
    // After the server, which writes there until it is stopped.
    files: TempDir,
}

impl Registry {
    /// Starts one, inside a sandbox or on the machine.
    pub fn start(sandbox: Option<&Sandbox>, options: &RegistryOptions) -> Result<Self> {
        let files = TempDir::new("registry")?;
        let address = match options.address {
            Some(address) => address,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let config = files.write("config.yml", config(&files, address, options)?)?;
        let mut command = sandbox::command(sandbox, "docker-registry");
        command
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let server = Server::listening(&command, &files.join("log"), address.port())
            .context("docker-registry cannot be started")?;
        Ok(Self {
            server,
            address,
            files,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the users of a registry with [`RegistryAuth::Htpasswd`]; the next request is
    /// checked against them.
    pub fn set_users(&self, users: &[(&str, &str)]) -> Result<()> {
        let lines = users
            .iter()
            .map(|(user, password)| htpasswd(user, password))
            .collect::<Result<Vec<_>>>()?;
        // In one step, because the registry may read it at any moment.
        let new = self.files.write("htpasswd.new", lines.concat())?;
        fs::rename(new, self.files.join("htpasswd")).context("cannot replace the users")
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where it keeps what was pushed.
    pub fn storage(&self) -> PathBuf {
        storage(&self.files)
    }
}

fn storage(files: &TempDir) -> PathBuf {
    files.join("storage")
}

fn config(files: &TempDir, address: SocketAddr, options: &RegistryOptions) -> Result<String> {
    let mut text = String::from("version: 0.1\nlog:\n  level: info\nstorage:\n");
    writeln!(text, "  delete:\n    enabled: true")?;
    writeln!(
        text,
        "  filesystem:\n    rootdirectory: {}",
        quoted(&storage(files))
    )?;
    // Relative locations keep whatever name and port the client used.
    writeln!(text, "http:\n  relativeurls: true\n  addr: \"{address}\"")?;
    // Shared state of several replicas, of which there is one.
    writeln!(text, "  secret: not-a-secret")?;
    if let Some(certificate) = &options.tls {
        writeln!(
            text,
            "  tls:\n    certificate: {}",
            quoted(&certificate.cert)
        )?;
        writeln!(text, "    key: {}", quoted(&certificate.key))?;
    }
    match &options.auth {
        RegistryAuth::None => {}
        RegistryAuth::Htpasswd { user, password } => {
            let file = files.write("htpasswd", htpasswd(user, password)?)?;
            writeln!(
                text,
                "auth:\n  htpasswd:\n    realm: registry\n    path: {}",
                quoted(&file)
            )?;
        }
        RegistryAuth::Token {
            realm,
            service,
            issuer,
            roots,
        } => {
            writeln!(
                text,
                "auth:\n  token:\n    realm: \"{realm}\"\n    service: \"{service}\""
            )?;
            writeln!(
                text,
                "    issuer: \"{issuer}\"\n    rootcertbundle: {}",
                quoted(roots)
            )?;
        }
    }
    Ok(text)
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
