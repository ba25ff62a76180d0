use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use proxy_common::decision::Transport;

use super::story::story;
use crate::{
    datapath::explain::{Host, Question, explain},
    workload::Lineage,
};

/// Says what the kernel would do with a connection of this node, and why.
///
/// Asks the same maps in the same way as the kernel does, and changes nothing. Names are not
/// resolved: what counts is which addresses the workload and the agent have got for them.
#[derive(Args)]
pub(super) struct Explain {
    /// The cgroup v2 directory of who connects: that of a pod, or one below.
    #[arg(long, value_name = "DIR")]
    cgroup: PathBuf,
    /// Where to: an address or a name, and a port.
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    to: Target,
    /// UDP instead of TCP.
    #[arg(long)]
    udp: bool,
    #[command(flatten)]
    pins: super::Pins,
    /// How to say it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: Host,
    port: u16,
}

impl Explain {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let lineage = Lineage::of(&self.cgroup)?;
        let question = Question {
            host: self.to.host,
            port: self.to.port,
            transport: if self.udp {
                Transport::Udp
            } else {
                Transport::Tcp
            },
        };
        let report = explain(&self.pins.pins, &lineage, &question)?;
        match self.output {
            Output::Text => print!("{}", story(&report)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn target(text: &str) -> Result<Target, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("write a host and a port, as in registry.example.com:443")?;
    let port = port
        .parse::<NonZeroU16>()
        .map_err(|_| format!("{port:?} is not a port from 1 to 65535"))?
        .get();
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = if let Some(inner) = bracketed {
        let ip = inner.parse::<Ipv6Addr>();
        let ip = ip.map_err(|_| format!("{inner:?} is not an IPv6 address"))?;
        // What a socket of IPv6 calls an IPv4 address.
        Host::Address(IpAddr::V6(ip).to_canonical())
    } else if host.contains(':') {
        return Err(format!("an IPv6 address needs brackets: [{host}]:{port}"));
    } else if let Ok(ip) = host.parse() {
        Host::Address(ip)
    } else if proxy_common::dns::hash(host).is_some() {
        Host::Name(host.to_ascii_lowercase())
    } else {
        return Err(format!("{host:?} is neither an address nor a name"));
    };
    Ok(Target { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_name_and_a_port() {
        let address = |text: &str| Host::Address(text.parse().expect("an address"));
        for (text, host) in [
            ("192.0.2.1:1", address("192.0.2.1")),
            ("[2001:db8::1]:1", address("2001:db8::1")),
            ("[::ffff:192.0.2.1]:1", address("192.0.2.1")),
            ("Git.Example.com:1", Host::Name("git.example.com".into())),
        ] {
            assert_eq!(target(text), Ok(Target { host, port: 1 }), "{text}");
        }
        for (text, says) in [
            ("git.example.com", "a host and a port"),
            ("git.example.com:0", "1 to 65535"),
            ("git.example.com:https", "1 to 65535"),
            ("2001:db8::1", "brackets"),
            ("2001:db8::1:443", "brackets"),
            ("[git]:443", "not an IPv6 address"),
            (":443", "neither"),
            ("a..b:443", "neither"),
        ] {
            let error = target(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
