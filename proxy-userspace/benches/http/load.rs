//! Load by wrk, handshakes by openssl, and what they say about it.

use std::time::Duration;

use anyhow::{Context, Result};

/// What clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    /// Failed connections, and answers other than 2xx and 3xx.
    pub(crate) errors: u64,
}

/// The command, as a shell takes it; `fields` are options of curl and wrk alike.
pub(crate) fn command(url: &str, connections: u32, time: Duration, fields: &str) -> String {
    format!(
        "wrk --threads 1 --connections {connections} --duration {}s --timeout 10s --latency \
         {fields} {url} 2>&1",
        time.as_secs()
    )
}

/// Reads what wrk 4 prints.
pub(crate) fn report(text: &str) -> Result<Report> {
    let percentile = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .with_context(|| format!("no {name} in: {text}"))?;
        time(line.trim())
    };
    let mut errors = 0;
    for line in text.lines().map(str::trim) {
        if let Some(counts) = line.strip_prefix("Socket errors:") {
            errors += numbers(counts).sum::<u64>();
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            errors += numbers(count).sum::<u64>();
        }
    }
    Ok(Report {
        median: percentile("50%")?,
        p99: percentile("99%")?,
        errors,
    })
}

/// Clients that shake hands at the same time.
const CLIENTS: u32 = 8;

/// The command for handshakes, each of which is followed by a request: with TLS 1.3 a client
/// has the server's ticket only once it has read something.
pub(crate) fn handshakes(host: &str, port: u16, time: Duration, resumed: bool) -> String {
    // What it takes for a path goes in front of the version.
    let request = format!("/ HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\nRest:");
    let sessions = if resumed { "-reuse" } else { "-new" };
    let one = format!(
        "openssl s_time -connect {host}:{port} -tls1_3 {sessions} -time {} \
         -www \"$(printf '{request}')\" 2>&1",
        time.as_secs()
    );
    format!("for client in $(seq {CLIENTS}); do {one} & done; wait")
}

/// Reads what openssl 3 prints: how many clients did not come to their end, and how many
/// handshakes were of the other kind.
pub(crate) fn handshakes_report(text: &str, resumed: bool) -> Report {
    let ended = text.matches("real seconds").count() as u64;
    // A letter for each: `r` for one that was resumed, `*` for one in full.
    let is_letter = |c: char| "*r".contains(c);
    let others = text
        .lines()
        .filter(|line| line.chars().all(is_letter))
        .flat_map(str::chars)
        .filter(|letter| (*letter == 'r') != resumed)
        .count();
    Report {
        errors: u64::from(CLIENTS).saturating_sub(ended) + others as u64,
        ..Report::default()
    }
}

fn numbers(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
}

/// `1.23ms` and the like.
fn time(text: &str) -> Result<Duration> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .with_context(|| format!("a time without a unit: {text}"))?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().context("a time that is no number")?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => anyhow::bail!("a time in {unit}"),
    };
    Ok(Duration::from_secs_f64(seconds))
}
