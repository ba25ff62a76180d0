//! A certificate's way: from its Secret to an upstream that demands one.

use std::cell::RefCell;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use minicluster::pods::{Outcome, Trust};
use minicluster::{REGISTRY, REGISTRY_ADDRESS, World, leaks, manifests, wait};
use serde_json::{Value, json};
use testkit::leaks::Needle;
use testkit::{Certificate, Content, Nginx, Site, SiteAuth, base64};

use crate::{TEAM, world};

/// Where the upstream listens, at the registry's address.
const PORT: u16 = 9443;

/// Asks the upstream, and shows the head of its answer.
const ASK: &str = "curl --silent --show-error --include --max-time 20 \
     https://registry.example.com:9443/";

/// An upstream that demands certificates, and tells whose it was shown.
fn demanding(world: &World) -> Result<Nginx> {
    let address: IpAddr = REGISTRY_ADDRESS.parse().context("not an address")?;
    let site = Site {
        name: REGISTRY.to_owned(),
        address: (address, PORT).into(),
        tls: Some(world.pki.server(&[REGISTRY])?),
        auth: SiteAuth::Certificate(world.pki.ca()),
        content: Content::Json("{}".to_owned()),
    };
    Nginx::start(Some(world.node.sandbox()), &[site])
}

/// All objects but the Secret with the certificate.
fn objects(world: &World) -> Result<String> {
    let types = json!([{"name": "certificate", "secretType": "kubernetes.io/tls"}]);
    let class = json!({
        "apiVersion": "connectors.postern.dev/v1alpha1",
        "kind": "ConnectorClass",
        "metadata": {"name": "mutual"},
        "spec": {"auth": {"types": types}},
    });
    let mut connector = manifests::connector(TEAM, &format!("https://{REGISTRY}:{PORT}"));
    connector["spec"]["connectorClassName"] = "mutual".into();
    connector["spec"]["auth"]["name"] = "certificate".into();
    let authority = manifests::authority(TEAM, &world.pki.ca_pem()?);
    Ok(manifests::list(&[class, authority, connector]))
}

/// The Secret that the Connector names.
fn secret(pair: &Certificate) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "registry-login", "namespace": TEAM},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": fs::read_to_string(&pair.cert)?,
            "tls.key": fs::read_to_string(&pair.key)?,
        },
    }))
}

/// Forms in which a key could show up.
fn needles(pair: &Certificate) -> Result<Vec<Needle>> {
    let pem = fs::read_to_string(&pair.key)?;
    let mut lines = pem.lines().filter(|line| !line.starts_with('-'));
    // The first has what all keys begin with.
    let line = lines.nth(1).context("a key of one line")?.to_owned();
    let whole = base64::encode(&pem);
    Ok(vec![
        ("a line of the key".to_owned(), line),
        ("the key in base64".to_owned(), whole),
    ])
}

/// Whether the upstream answered somebody of this name.
fn was_shown(answer: &Outcome, name: &str) -> bool {
    let has = |field: &str| {
        let mut lines = answer.log.lines().map(str::to_lowercase);
        lines.any(|line| line.starts_with("client-subject:") && line.ends_with(field))
    };
    answer.succeeded && answer.log.contains(" 200") && has(&format!("cn={name}"))
}

/// Waits until the upstream is shown the certificate of this name.
async fn shown(world: &World, name: &str) -> Result<()> {
    let last = RefCell::new(None);
    let waited = wait::until(&format!("an answer to {name}"), async || {
        let answer = world.exec(TEAM, "client", ASK).await?;
        let is_shown = was_shown(&answer, name);
        last.replace(Some(answer));
        Ok(is_shown.then_some(()))
    })
    .await;
    waited.with_context(|| format!("the last answer was {:?}", last.take()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_shown_replaced_and_expires() -> Result<()> {
    let world = world().await?;
    let nginx = demanding(&world)?;
    world.apply(&manifests::bare_namespace(TEAM))?;
    world.apply(&objects(&world)?)?;
    let first = world.pki.client("first.client.test")?;
    world.apply(&secret(&first)?.to_string())?;
    world.condition(TEAM, "Ready", "True").await?;
    world.start_pod(TEAM, "client", Trust::Postern, "sleep 1000")?;
    world.running(TEAM, "client").await?;
    shown(&world, "first.client.test").await?;
    leaks::search(&world, &needles(&first)?)?;

    // Another key and certificate: from one connection on, all of them have it.
    let second = world.pki.client("second.client.test")?;
    world.apply(&secret(&second)?.to_string())?;
    shown(&world, "second.client.test").await?;
    for _ in 0..5 {
        let answer = world.exec(TEAM, "client", ASK).await?;
        ensure!(was_shown(&answer, "second.client.test"), "{answer:?}");
    }
    leaks::search(&world, &needles(&second)?)?;

    // One that is over is named, shown to nobody, and not done without.
    let over = SystemTime::now() - Duration::from_hours(24);
    let third = world.pki.client_until("third.client.test", over)?;
    world.apply(&secret(&third)?.to_string())?;
    let condition = world.condition(TEAM, "SecretReady", "False").await?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains("has expired at "), "{condition}");
    wait::until("a refusal", async || {
        let answer = world.exec(TEAM, "client", ASK).await?;
        Ok((!answer.succeeded).then_some(()))
    })
    .await?;
    let requests = nginx.requests()?;
    ensure!(!requests.is_empty(), "nobody was there");
    ensure!(requests.iter().all(|it| it.status == 200), "{requests:#?}");
    Ok(())
}
