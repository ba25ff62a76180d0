//! Connections that are held, and used once in a while.

use std::{
    fmt,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::{
    Content, Nginx, SiteAuth,
    proc::{descriptors, processor_time, resident},
};

use super::client::Client;
use crate::support::{self, TOKEN, World, counter};

/// Descriptors of a proxy, or a client, besides those of the connections that are held.
const OTHER_DESCRIPTORS: usize = 600;
/// `PARALLEL` of the client, and more.
const OPENED_AT_ONCE: usize = 64;
const CLIENT: &str = include_str!("client.py");

/// What becomes of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Postern sees their requests.
    Intercepted,
    /// They are no Connector's.
    PassedThrough,
}

impl Kind {
    /// How many descriptors of the proxy one of them takes.
    fn descriptors(self) -> usize {
        match self {
            Self::Intercepted => 1,
            Self::PassedThrough => 2,
        }
    }
}

/// What it took to hold them.
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Requests that they made in all.
    pub(crate) requests: u64,
    /// Until all were open.
    opening: Duration,
    /// While nothing happened.
    idle: Duration,
    /// Processor time of the proxy in that time.
    busy: Duration,
    /// Descriptors of the proxy then.
    pub(crate) descriptors: usize,
    /// Resident memory of the proxy after the first connection, with all of them idle, and when
    /// all were closed; KiB.
    memory: [u64; 3],
}

impl fmt::Display for Held {
    #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, held, after] = self.memory.map(|kib| kib as f64 / 1024.0);
        let each = (held - before) * 1024.0 / self.connections as f64;
        let share = self.busy.as_secs_f64() / self.idle.as_secs_f64() * 100.0;
        write!(
            f,
            "{:?}: {} held, {} requests, opened in {:.0} s; {} descriptors; \
             {before:.1} MiB before, {held:.1} held ({each:.1} KiB each), {after:.1} after; \
             idle for {:.0} s at {share:.3} % of a processor",
            self.kind,
            self.connections,
            self.requests,
            self.opening.as_secs_f64(),
            self.descriptors,
            self.idle.as_secs_f64(),
        )
    }
}

/// Holds as many connections as are wanted, or as many of this kind as one process can have
/// descriptors for. Each makes a request when it is opened, and one after all have been idle.
pub(crate) fn hold(kind: Kind, wanted: usize, pause: Duration) -> Result<Held> {
    let most = (raise_open_files()?.saturating_sub(OTHER_DESCRIPTORS)) / kind.descriptors();
    let connections = wanted.min(most);
    ensure!(connections > 0, "the limit of open files is too low");
    let (world, _nginx) = world()?;
    let mut client = start(&world, kind, connections)?;
    let proxy = client.proxy();

    // What the proxy makes once is not counted as the connections'.
    client.tell("open 1")?;
    let first = resident(proxy)?;
    let start = Instant::now();
    client.tell(&format!("open {}", connections - 1))?;
    let opening = start.elapsed();
    let (start, before) = (Instant::now(), processor_time(proxy)?);
    sleep(pause);
    let (idle, after) = (start.elapsed(), processor_time(proxy)?);
    let (held, descriptors) = (resident(proxy)?, descriptors(proxy)?);
    let requests = client.tell("ask")?.parse().context("no number")?;
    client.tell("close")?;
    settle(proxy)?;
    let memory = [first, held, given_back(proxy, first.midpoint(held))?];

    let told = client.finish()?;
    let (intercepted, spliced, injected) = match kind {
        Kind::Intercepted => (connections as u64, 0, requests),
        Kind::PassedThrough => (0, connections as u64, 0),
    };
    for (name, expected) in [
        ("intercepted", intercepted),
        ("spliced", spliced),
        ("injected", injected),
        ("held_up", 0),
        ("failed_accepts", 0),
        ("refused", 0),
    ] {
        let counted = counter(&told, name)?;
        ensure!(
            counted == expected,
            "{name} is {counted}, not {expected}: {told:?}"
        );
    }
    Ok(Held {
        kind,
        connections,
        requests,
        opening,
        idle,
        busy: after.saturating_sub(before),
        descriptors,
        memory,
    })
}

/// Lets this process, and those that it starts, have as many as they may.
fn raise_open_files() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(usize::try_from(most)?)
}

/// Two names at one address, one of which is a Connector's.
fn world() -> Result<(World, Nginx)> {
    let world = World::new(&["api.test", "other.test"])?;
    let site = |name, auth| world.site(name, 443, auth, Content::Json("{}".into()));
    let nginx = world.nginx(&[
        site("api.test", SiteAuth::Bearer(TOKEN.into()))?,
        site("other.test", SiteAuth::None)?,
    ])?;
    Ok((world, nginx))
}

fn start(world: &World, kind: Kind, connections: usize) -> Result<Client> {
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    // The second is what nginx speaks by itself.
    let (host, version) = match kind {
        Kind::Intercepted => ("api.test", "TLSv1.3"),
        Kind::PassedThrough => ("other.test", "TLSv1.2"),
    };
    let script = world.files.write("client.py", CLIENT)?;
    let [script, authority] = [script, world.pki.ca().clone()]
        .map(|path| path.to_str().map(str::to_owned).context("no text"));
    // Postern looks for room before there is another connection. It is not known at first what
    // becomes of one, so each that is being opened has two places; and a workload that is alone
    // gets two thirds of all.
    let most = connections + 1;
    let places = (most * kind.descriptors() + 2 * OPENED_AT_ONCE).div_ceil(2) * 3;
    let options = [
        "--stats",
        "--mode=transparent",
        &format!("--connections-per-workload={most}"),
        &format!("--connections={places}"),
    ];
    let command = ["/usr/bin/python3", &script?, host, &authority?, version];
    let run = world.run_with(&manifest, &options, &command);
    Client::start(&run, &world.files)
}

/// Waits until the proxy has noticed that its connections are closed.
fn settle(proxy: u32) -> Result<()> {
    for _ in 0..500 {
        if descriptors(proxy)? < OTHER_DESCRIPTORS {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    anyhow::bail!("connections stay open: {} descriptors", descriptors(proxy)?)
}

/// Waits until the proxy has no more than so much resident memory, KiB; how much it has then.
fn given_back(proxy: u32, most: u64) -> Result<u64> {
    let mut memory = resident(proxy)?;
    for _ in 0..500 {
        if memory <= most {
            return Ok(memory);
        }
        sleep(Duration::from_millis(20));
        memory = resident(proxy)?;
    }
    anyhow::bail!("{memory} KiB stay resident, more than {most}")
}
