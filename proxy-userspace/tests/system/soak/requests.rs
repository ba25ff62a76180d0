//! Many requests, and what they leave behind in memory.

use std::fmt;

use anyhow::{Result, ensure};
use testkit::{SiteAuth, proc::resident};

use super::client::{Client, END};
use crate::support::{self, TOKEN, counter};

/// Requests over each version of HTTP in a round, both at the same time. Each round has
/// connections of its own.
const HALF: u64 = 5_000;
/// Requests of a round.
pub(crate) const ROUND: u64 = 2 * HALF;
const CLIENTS: u64 = 50;

/// Resident memory of the proxy, while nobody is connected to it.
pub(crate) struct Memory {
    /// After how many requests, and KiB. The first is that of the warm-up.
    samples: Vec<(u64, u64)>,
}

impl Memory {
    fn warm(&self) -> u64 {
        self.samples.first().map_or(0, |(_, kib)| *kib)
    }

    /// By how much it has grown since the warm-up, KiB.
    pub(crate) fn growth(&self) -> u64 {
        let last = self.samples.last().map_or(0, |(_, kib)| *kib);
        last.saturating_sub(self.warm())
    }

    /// The same in percent.
    #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
    pub(crate) fn growth_percent(&self) -> f64 {
        self.growth() as f64 * 100.0 / self.warm() as f64
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As many as can be read at a glance, and the last.
        let step = self.samples.len().div_ceil(20);
        for (n, (requests, kib)) in self.samples.iter().enumerate() {
            if n % step == 0 || n + 1 == self.samples.len() {
                writeln!(f, "{requests:>9} requests: {kib} KiB")?;
            }
        }
        let (growth, percent) = (self.growth(), self.growth_percent());
        write!(f, "growth since the warm-up: {growth} KiB, {percent:.1} %")
    }
}

/// Makes so many requests to warm up, and so many more; whole rounds of both.
pub(crate) fn perform(warm_up: u64, requests: u64) -> Result<Memory> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let load = format!(
        "timeout 600 h2load --clients {CLIENTS} --requests {HALF} https://api.test/ </dev/null 2>&1"
    );
    let other = world.files.join("h1");
    let other = other.display();
    let round = format!(
        "{load} --h1 >{other} & {load} --max-concurrent-streams=10; wait; cat {other}; echo '{END}'"
    );
    let run = world.run_with(&manifest, &["--stats", "--mode=transparent"], &["sh"]);
    let mut client = Client::start(&run, &world.files)?;

    let warm = warm_up.div_ceil(ROUND);
    let rounds = warm + requests.div_ceil(ROUND);
    let mut samples = Vec::new();
    for n in 1..=rounds {
        all_are_served(&client.tell(&round)?)?;
        if n >= warm {
            samples.push((n * ROUND, resident(client.proxy())?));
        }
    }
    let told = client.finish()?;
    for (name, expected) in [("injected", rounds * ROUND), ("refused", 0)] {
        let counted = counter(&told, name)?;
        ensure!(
            counted == expected,
            "{name} is {counted}, not {expected}: {told:?}"
        );
    }
    Ok(Memory { samples })
}

/// What both programs say: each request was answered with 200.
fn all_are_served(told: &str) -> Result<()> {
    let good = format!("{HALF} succeeded, 0 failed, 0 errored, 0 timeout");
    let statuses = format!("status codes: {HALF} 2xx, 0 3xx, 0 4xx, 0 5xx");
    for line in [good, statuses] {
        ensure!(told.matches(&line).count() == 2, "not twice {line}: {told}");
    }
    Ok(())
}
