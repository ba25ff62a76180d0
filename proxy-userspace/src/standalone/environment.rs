//! Proxy variables that the command inherits or gets.

use std::{env, ffi::OsString, sync::Arc};

use crate::state::Connector;

const PROXIES: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

type Variables = Vec<(OsString, OsString)>;

/// With the kernel redirecting, a proxy of the user's own would take the connections away
/// before they are made: Connector hosts are excepted from it.
pub(super) fn for_transparent(connectors: &[Arc<Connector>]) -> Variables {
    if PROXIES.iter().all(|name| env::var_os(name).is_none()) {
        return Vec::new();
    }
    except(|entries| {
        // "*" covers them, and only alone.
        if entries.iter().all(|entry| entry != "*") {
            entries.extend(hosts(connectors).map(str::to_owned));
        }
    })
}

/// With Postern as the proxy, exceptions would take Connector hosts away from it.
pub(super) fn for_forward(connectors: &[Arc<Connector>]) -> Variables {
    for name in PROXIES {
        if env::var_os(name).is_some_and(|value| !value.is_empty()) {
            tracing::warn!("{name} is replaced: Postern does not go through another proxy");
            break;
        }
    }
    except(|entries| entries.retain(|entry| !hosts(connectors).any(|host| covers(entry, host))))
}

fn hosts(connectors: &[Arc<Connector>]) -> impl Iterator<Item = &str> {
    connectors
        .iter()
        .flat_map(|connector| connector.addresses())
        .map(|address| address.host.as_str())
}

/// Both spellings, each from its own value or, when it is unset, from the other's: which of
/// them counts is every program's own choice.
fn except(change: impl Fn(&mut Vec<String>)) -> Variables {
    let values = EXCEPTIONS.map(|name| env::var(name).ok());
    let either = values.iter().flatten().next().cloned().unwrap_or_default();
    EXCEPTIONS
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let mut entries: Vec<String> = value
                .unwrap_or_else(|| either.clone())
                .split(',')
                .map(|entry| entry.trim().to_owned())
                .filter(|entry| !entry.is_empty())
                .collect();
            change(&mut entries);
            (name.into(), entries.join(",").into())
        })
        .collect()
}

/// Whether an entry of `no_proxy` is about a host, as most programs understand it.
fn covers(entry: &str, host: &str) -> bool {
    let entry = entry.split(':').next().unwrap_or(entry);
    let entry = entry.trim_start_matches('*').trim_start_matches('.');
    entry.is_empty()
        || host.eq_ignore_ascii_case(entry)
        || host
            .to_ascii_lowercase()
            .ends_with(&format!(".{}", entry.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_cover_hosts_and_their_domains() {
        for entry in [
            "*",
            "git.corp.example",
            ".corp.example",
            "corp.example",
            "*.corp.example",
            "GIT.corp.example:443",
        ] {
            assert!(covers(entry, "git.corp.example"), "{entry}");
        }
        for entry in [
            "it.corp.example",
            "other.example",
            "git.corp.example.org",
            "localhost",
        ] {
            assert!(!covers(entry, "git.corp.example"), "{entry}");
        }
    }
}
