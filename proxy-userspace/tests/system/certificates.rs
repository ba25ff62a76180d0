//! Connectors with a certificate, against nginx and OpenSSL, which demand one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern::{
    limits,
    node::{Granted, Node},
    state::{Connector, ConnectorId, Credential, FailurePolicy, Scheme, load_text},
    tls::Roots,
};
use testkit::{Certificate, Content, Server, SiteAuth, maps, proc};
use tokio::time::timeout;

use crate::{
    rig::{CURL_REFUSED, Pod, policy, stretched},
    support::{self, World, at, ok, output, stderr, stdout},
};

const CLASS: &str = "apiVersion: connectors.postern.dev/v1alpha1\nkind: ConnectorClass\n\
     metadata:\n  name: mutual\nspec:\n  auth:\n    types:\n    - name: certificate\n      \
     secretType: kubernetes.io/tls\n  livenessProbe:\n    http:\n      path: /\n      \
     response:\n        cel: response.statusCode < 500\n  authProbes:\n  \
     - authName: certificate\n    probe:\n      http:\n        path: /\n";

/// The class, a Connector of it at `address` and its Secret.
fn documents(address: &str, pair: &Certificate) -> Result<[String; 3]> {
    let connector = support::connector("api", "mutual", address, "certificate");
    let (cert, key) = (
        fs::read_to_string(&pair.cert)?,
        fs::read_to_string(&pair.key)?,
    );
    let values = [("tls.crt", &*cert), ("tls.key", &*key)];
    let secret = support::secret("api", "kubernetes.io/tls", &values);
    Ok([CLASS.to_owned(), connector, secret])
}

/// A world with nginx at `api.test`, which demands certificates.
fn demanding() -> Result<(World, testkit::Nginx)> {
    let world = World::new(&["api.test"])?;
    let auth = SiteAuth::Certificate(world.pki.ca());
    let site = world.site("api.test", 443, auth, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    Ok((world, nginx))
}

#[test]
fn nginx_and_openssl_take_the_certificate() -> Result<()> {
    let (world, _nginx) = demanding()?;
    let mut openssl = world.sandbox.command("openssl");
    let own = world.certificate(&["api.test"])?;
    let address = at(8443)?.to_string();
    openssl
        .args(["s_server", "-www", "-accept", &address])
        .args(["-Verify", "1", "-verify_return_error", "-CAfile"])
        .arg(world.pki.ca())
        .arg("-cert")
        .arg(&own.cert)
        .arg("-key")
        .arg(&own.key);
    let log = world.files.path().join("s_server.log");
    let _openssl = Server::listening(&openssl, &log, 8443)?;
    let pair = world.pki.client("client.test")?;
    let curl = ["curl", "--silent", "--fail"];

    let manifest = world.manifest(&documents("https://api.test", &pair)?)?;
    for version in ["--http1.1", "--http2"] {
        let command = [&curl[..], &[version, "https://api.test/"]].concat();
        ensure!(stdout(&ok(world.run(&manifest, &command))?) == "{}");
    }
    let manifest = world.manifest(&documents("https://api.test:8443", &pair)?)?;
    let command = [&curl[..], &["https://api.test:8443/"]].concat();
    let page = stdout(&ok(world.run(&manifest, &command))?);
    ensure!(
        page.contains("Verify return code: 0 (ok)") && page.contains("client.test"),
        "{page}"
    );
    Ok(())
}

#[test]
fn check_shows_the_certificate_and_says_when_it_is_not_taken() -> Result<()> {
    let (world, _nginx) = demanding()?;
    let over = SystemTime::now() - Duration::from_hours(24);
    let stranger = testkit::Pki::new()?;
    for (pair, ready, words) in [
        (world.pki.client("client.test")?, true, ""),
        (
            stranger.client("client.test")?,
            false,
            "AuthenticationFailed",
        ),
        (
            world.pki.client_until("client.test", over)?,
            false,
            "the certificate in tls.crt has expired at ",
        ),
    ] {
        let manifest = world.manifest(&documents("https://api.test", &pair)?)?;
        let mut check = world.postern(&["check", "-f"]);
        check.arg(&manifest);
        let output = output(check)?;
        let text = stdout(&output);
        ensure!(
            output.status.success() == ready && text.contains(words),
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn a_plain_address_and_a_foreign_key_are_refused_before_anything_runs() -> Result<()> {
    let world = World::new(&[])?;
    let (one, other) = (
        world.pki.client("one.test")?,
        world.pki.client("other.test")?,
    );
    let mixed = Certificate {
        cert: one.cert.clone(),
        key: other.key,
    };
    for (address, pair, words) in [
        ("http://api.test", &one, "is not encrypted"),
        ("https://api.test", &mixed, "tls.key: does not belong"),
    ] {
        let manifest = world.manifest(&documents(address, pair)?)?;
        let output = output(world.run(&manifest, &["true"]))?;
        let log = stderr(&output);
        ensure!(
            output.status.code() == Some(125) && log.contains(words),
            "{log}"
        );
    }
    Ok(())
}

/// Forms in which the key could get out: lines of its PEM, and what of it is secret in DER.
fn needles(pair: &Certificate) -> Result<Vec<Vec<u8>>> {
    let pem = fs::read_to_string(&pair.key)?;
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    let mut needles: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["pkey", "-noout", "-text", "-in"])
        .arg(&pair.key);
    let text = stdout(&ok(openssl)?);
    let (_, rest) = text.split_once("priv:").context("no private part")?;
    let (hex, _) = rest.split_once("pub:").context("no public part")?;
    let secret: Vec<u8> = hex
        .split([':', '\n', ' '])
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    ensure!(secret.len() >= 32 && needles.len() >= 3, "{hex}");
    // As `Debug` writes bytes.
    needles.push(format!("{secret:?}").trim_matches(['[', ']']).into());
    needles.push(secret);
    Ok(needles)
}

fn holds(bytes: &[u8], needles: &[Vec<u8>]) -> bool {
    let found = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|it| it == needle);
    needles.iter().any(found)
}

fn files_below(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.append(&mut files_below(&path)?);
        } else if path.is_file() {
            all.push(fs::read(&path)?);
        }
    }
    Ok(all)
}

#[test]
fn the_key_is_nowhere_but_in_memory() -> Result<()> {
    let (world, _nginx) = demanding()?;
    let pair = world.pki.client("client.test")?;
    let manifest = world.manifest(&documents("https://api.test", &pair)?)?;
    let script = "curl --silent --fail https://api.test/ && echo && exec sleep 1000";
    let log = world.files.path().join("log");
    let mut run = world.run(&manifest, &["sh", "-c", script]);
    let mut child = run
        .env("POSTERN_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let scanned = (|| {
        let mut line = String::new();
        let stdout = child.stdout.take().context("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "{}", "{line}");
        let needles = needles(&pair)?;
        ensure!(
            holds(&fs::read(&pair.key)?, &needles),
            "the search is broken"
        );
        let maps = maps::of_process(child.id())?;
        for map in &maps {
            let is_there = map.contents.iter().any(|it| holds(it, &needles));
            ensure!(!is_there, "the key is in the map {}", map.name);
        }
        let mut processes = proc::descendants(child.id())?;
        processes.push(child.id());
        for pid in processes {
            let words = [proc::environ(pid), proc::cmdline(pid)];
            let words = words.into_iter().flatten().flatten();
            for word in words {
                ensure!(!holds(word.as_bytes(), &needles), "process {pid} shows it");
            }
        }
        let folder = format!("/run/postern/run-{}", child.id());
        let files = files_below(Path::new(&folder))?;
        ensure!(!files.is_empty(), "{folder} is empty");
        ensure!(!files.iter().any(|it| holds(it, &needles)), "{folder}");
        Ok(needles)
    })();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    child.wait()?;
    let log = fs::read(&log)?;
    ensure!(
        !log.is_empty() && !holds(&log, &scanned?),
        "the log shows it"
    );
    Ok(())
}

/// A Connector to the pod's upstream with a certificate that ends then.
fn granted(pod: &Pod, port: u16, end: SystemTime, policy: FailurePolicy) -> Result<Granted> {
    let pki = testkit::Pki::new()?;
    let manifests = documents("https://api.test", &pki.client_until("client.test", end)?)?;
    let text = manifests
        .join("---\n")
        .replace("caCertSecretRef:\n    name: ca\n  ", "");
    let loaded = load_text("manifest", &text)?;
    let credential: Option<Credential> = loaded.connectors[0].credential.clone();
    let mut granted = pod.connector(1, Scheme::Https, port, "none");
    granted.connector = Connector {
        credential,
        failure_policy: policy,
        ..Connector::clone(&granted.connector)
    }
    .into();
    Ok(granted)
}

/// How curl ends, and what it says of the server's certificate. The upstream's is not trusted
/// here, nor is Postern's.
fn issuer(pod: &Pod, port: u16) -> Result<(Option<i32>, bool)> {
    let url = format!("https://{}:{port}/", pod.host);
    let curl = pod.curl(&["--insecure", "--verbose", &url])?;
    Ok((
        curl.status.code(),
        stderr(&curl).contains("Postern intermediate"),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_refuses_after_the_end_without_the_agent() -> Result<()> {
    let pod = Pod::new("expiry")?;
    let port = pod.upstream(Scheme::Https).await?;
    let end = SystemTime::now() + stretched(Duration::from_secs(10));
    let granted = granted(&pod, port, end, FailurePolicy::Closed)?;
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, &[granted])?;
    ensure!(issuer(&pod, port)? == (Some(0), true));
    // Nobody gives signs of life or looks at clocks meanwhile.
    while SystemTime::now() < end + Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(issuer(&pod, port)? == (Some(CURL_REFUSED), false));
    ensure!(node.stats()?.refused_cred == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_open_goes_direct_after_the_end() -> Result<()> {
    let pod = Pod::new("expiry-open")?;
    let port = pod.upstream(Scheme::Https).await?;
    let over = SystemTime::now() - Duration::from_hours(1);
    let later = SystemTime::now() + Duration::from_hours(1);
    let open = FailurePolicy::Open;
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, &[granted(&pod, port, later, open)?])?;
    ensure!(issuer(&pod, port)? == (Some(0), true));
    node.set_policies(policy(&[granted(&pod, port, over, open)?]), &Roots::none())?;
    ensure!(issuer(&pod, port)? == (Some(0), false));
    node.set_policies(policy(&[granted(&pod, port, later, open)?]), &Roots::none())?;
    ensure!(issuer(&pod, port)? == (Some(0), true));

    // The end comes by itself as well.
    let end = SystemTime::now() + stretched(Duration::from_secs(5));
    node.set_policies(policy(&[granted(&pod, port, end, open)?]), &Roots::none())?;
    for _ in 0..1000 {
        let _ = timeout(limits::HEARTBEAT, node.keep_up()).await;
        if issuer(&pod, port)? == (Some(0), false) {
            return Ok(());
        }
    }
    bail!("it never went direct")
}

/// Which of them is meant only the proxy can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_open_behind_a_shared_port_goes_direct_after_the_end() -> Result<()> {
    let pod = Pod::new("expiry-shared")?;
    let port = pod.upstream(Scheme::Https).await?;
    let over = SystemTime::now() - Duration::from_hours(1);
    let with = |policy| -> Result<[Granted; 2]> {
        let one = granted(&pod, port, over, FailurePolicy::Open)?;
        let mut other = granted(&pod, port, over, policy)?;
        let mut connector = Connector::clone(&other.connector);
        connector.id = ConnectorId(2);
        connector.address.path = "/other".into();
        other.connector = connector.into();
        Ok([one, other])
    };
    let mut node = Node::start(pod.proxy()?, pod.cgroup.levels())?;
    pod.serve(&mut node, &with(FailurePolicy::Open)?)?;
    ensure!(issuer(&pod, port)? == (Some(0), false));
    // The path is known to nobody before the handshake, and a part of them stays refused.
    let grants = policy(&with(FailurePolicy::Closed)?);
    node.set_policies(grants, &Roots::none())?;
    ensure!(issuer(&pod, port)? == (Some(0), true));
    Ok(())
}
