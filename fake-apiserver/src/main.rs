//! The fake API server as a program, for use by hand and by other programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use fake_apiserver::{API_AUDIENCE, Identity, Options, Server, Token};
use serde::Deserialize;

/// A small Kubernetes API server in memory. It runs until it is interrupted.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak TLS.
    #[arg(long)]
    tls: bool,
    /// Let roles decide what a request may do.
    #[arg(long)]
    rbac: bool,
    /// Refuse requests without a token.
    #[arg(long)]
    no_anonymous: bool,
    /// Delete pods at once, as there is no kubelet that confirms their end.
    #[arg(long)]
    no_graceful_pods: bool,
    /// A JSON file of tokens: `{"<token>": {"user": …, "groups": […], "extra": {…}, "audiences": […]}}`.
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// Write a kubeconfig to this file once the server listens.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The token in that kubeconfig.
    #[arg(long)]
    kubeconfig_token: Option<String>,
    /// Write the authority's certificate to this file.
    #[arg(long)]
    authority: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    user: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    audiences: Vec<String>,
}

impl TokenEntry {
    fn token(self) -> Token {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let identity = Identity {
            uid: self.uid,
            extra: self.extra,
            ..Identity::user(&self.user, &groups)
        };
        let audiences = if self.audiences.is_empty() {
            vec![API_AUDIENCE.to_owned()]
        } else {
            self.audiences
        };
        Token {
            identity,
            audiences,
        }
    }
}

fn tokens(path: &PathBuf) -> Result<Vec<(String, Token)>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries: BTreeMap<String, TokenEntry> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no table of tokens", path.display()))?;
    Ok(entries
        .into_iter()
        .map(|(token, entry)| (token, entry.token()))
        .collect())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let defaults = Options::default();
    let server = Server::start(Options {
        listen: arguments.listen,
        tls: arguments.tls,
        enforce_rbac: arguments.rbac,
        graceful_pods: !arguments.no_graceful_pods,
        tokens: arguments
            .tokens
            .as_ref()
            .map(tokens)
            .transpose()?
            .unwrap_or_default(),
        anonymous: if arguments.no_anonymous {
            None
        } else {
            defaults.anonymous.clone()
        },
        ..defaults
    })
    .await?;
    if let (Some(path), Some(authority)) = (&arguments.authority, server.authority()) {
        std::fs::write(path, authority)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.kubeconfig {
        server.write_kubeconfig(path, arguments.kubeconfig_token.as_deref())?;
    }
    println!("{}", server.url());
    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for an interrupt")
}
