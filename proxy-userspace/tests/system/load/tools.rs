//! Load by h2load, on servers that are not of our making.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use testkit::SiteAuth;

use crate::support::{self, TOKEN, World, counter, ok, stdout};

/// How h2load is told to come.
struct Load<'a> {
    clients: u64,
    requests: u64,
    options: &'a [&'a str],
}

const LOADS: [Load<'static>; 4] = [
    Load {
        clients: 100,
        requests: 10_000,
        options: &["--h1"],
    },
    Load {
        clients: 1000,
        requests: 10_000,
        options: &["--h1"],
    },
    Load {
        clients: 100,
        requests: 10_000,
        options: &["--max-concurrent-streams=10"],
    },
    Load {
        clients: 1000,
        requests: 10_000,
        options: &["--max-concurrent-streams=1"],
    },
];

/// Every request is answered with 200, and with the credential, which the upstream insists on.
fn all_are_served(world: &World) -> Result<()> {
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    for load in &LOADS {
        let (clients, requests) = (load.clients.to_string(), load.requests.to_string());
        let mut command = vec!["h2load", "--clients", &clients, "--requests", &requests];
        command.extend(load.options);
        command.push("https://api.test/");
        let output = ok(world.run_with(&manifest, &["--stats"], &command))?;
        let told = stdout(&output);
        let good = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
        let statuses = format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx");
        ensure!(
            told.contains(&good) && told.contains(&statuses),
            "{command:?}: {told}"
        );
        ensure!(counter(&output, "injected")? == load.requests);
    }
    Ok(())
}

#[test]
fn a_hundred_and_a_thousand_clients_in_front_of_nginx() -> Result<()> {
    let (world, nginx, _) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    all_are_served(&world)?;
    let versions = nginx.requests()?;
    for version in ["HTTP/1.1", "HTTP/2.0"] {
        ensure!(versions.iter().any(|request| request.protocol == version));
    }
    Ok(())
}

#[test]
fn a_hundred_and_a_thousand_clients_in_front_of_haproxy() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let certificate = world.certificate(&["api.test"])?;
    // It wants both in one file.
    let mut pem = fs::read_to_string(&certificate.cert)?;
    pem += &fs::read_to_string(&certificate.key)?;
    let pem = world.files.write("haproxy.pem", pem)?;
    let options = format!("ssl crt {} alpn h2,http/1.1", pem.display());
    let _haproxy = world.haproxy(443, &options)?;
    all_are_served(&world)
}

/// What a request came to: an answer, or the end of the connection.
fn statuses(told: &str, client: &str) -> Result<Vec<u16>> {
    told.lines()
        .filter_map(|line| line.strip_prefix(client))
        .map(|status| status.trim().parse().context("no status"))
        .collect()
}

/// Two upstreams, one of which is killed while clients ask both, and comes back.
#[test]
fn an_upstream_that_is_killed_costs_its_own_requests_alone() -> Result<()> {
    const CLIENTS: usize = 8;
    let world = World::new(&["api.test", "other.test"])?;
    let auth = || SiteAuth::Bearer(TOKEN.into());
    let start = |name: &str, port| {
        let content = testkit::Content::Json("{}".into());
        world.nginx(&[world.site(name, port, auth(), content)?])
    };
    let api = start("api.test", 443)?;
    let other = start("other.test", 8443)?;
    let connectors = [
        support::bearer("api", "https://api.test"),
        support::bearer("other", "https://other.test:8443"),
    ];
    let manifest = world.manifest(&connectors.concat())?;
    let stop = world.files.join("stop");
    let script = format!(
        "ask() {{ for round in $(seq 2000); do [ -e {stop} ] && break; \
           curl --silent --max-time 60 --output /dev/null --write-out \"$1 %{{http_code}}\\n\" \"$2[1-50]\"; \
         done; }}; \
         for n in $(seq {CLIENTS}); do \
           ask api https://api.test/ & ask other https://other.test:8443/ & \
         done; wait; \
         curl --silent --output /dev/null --write-out 'last %{{http_code}}\\n' https://api.test/",
        stop = stop.display()
    );
    let run = world.run(&manifest, &["bash", "-c", &script]);
    let clients = std::thread::spawn(move || ok(run));

    // Each in the middle of what the clients do.
    let killed_and_back = || -> Result<_> {
        api.requests_after(400)?;
        drop(api);
        let asked = other.requests()?.len();
        other.requests_after(asked + 400)?;
        let again = start("api.test", 443)?;
        again.requests_after(400)?;
        Ok(again)
    };
    let again = killed_and_back();
    // The clients end whatever has happened.
    fs::write(&stop, "")?;
    let Ok(output) = clients.join() else {
        bail!("the clients' thread panicked");
    };
    let told = stdout(&output?);
    let again = again?;

    let gone = statuses(&told, "api")?;
    ensure!(
        gone.iter().all(|status| matches!(status, 0 | 200 | 502)),
        "{gone:?}"
    );
    ensure!(gone.contains(&502) && gone.contains(&200), "{gone:?}");
    // Without an answer are at most those that were under way.
    let broken = gone.iter().filter(|status| **status == 0).count();
    ensure!(broken <= CLIENTS, "{broken} without an answer");
    let others = statuses(&told, "other")?;
    ensure!(others.iter().all(|status| *status == 200), "{others:?}");
    ensure!(statuses(&told, "last")? == [200], "{told}");
    ensure!(
        again
            .requests()?
            .iter()
            .all(|request| request.status == 200)
    );
    Ok(())
}
