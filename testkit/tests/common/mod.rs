//! What several tests share.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use testkit::{Pki, Sandbox, SandboxOptions};

/// The address of every server.
pub(crate) const ADDRESS: &str = "192.0.2.10";

pub(crate) fn sandbox(name: &str) -> Result<Sandbox> {
    let address: IpAddr = ADDRESS.parse()?;
    Sandbox::new(&SandboxOptions::default().host(name, address))
}

pub(crate) fn at(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ADDRESS.parse()?, port))
}

/// `curl`, which trusts the authority.
pub(crate) fn curl(sandbox: &Sandbox, pki: &Pki, arguments: &[&str]) -> Command {
    let mut curl = sandbox.command("curl");
    curl.args(["--silent", "--show-error", "--cacert"])
        .arg(pki.ca())
        .args(arguments);
    curl
}
