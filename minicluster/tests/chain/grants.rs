//! Pods that are granted some of the Connectors of their namespace.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use minicluster::pods::Trust;
use minicluster::{REGISTRY, REGISTRY_ADDRESS, SECOND, World, manifests, wait};
use serde_json::{Value, json};
use testkit::{Content, Nginx, Site, SiteAuth};

use crate::{TEAM, world};

/// Where the upstreams listen, both at the registry's address.
const PORT: u16 = 9443;

/// Service account that may use the Connector `registry` and no other.
const NARROW: &str = "narrow";
/// Service account that may use all of them.
const WIDE: &str = "wide";

/// An upstream by this name, with a token of its own.
fn site(world: &World, name: &str) -> Result<Site> {
    let address: IpAddr = REGISTRY_ADDRESS.parse().context("not an address")?;
    Ok(Site {
        name: name.to_owned(),
        address: (address, PORT).into(),
        tls: Some(world.pki.server(&[name])?),
        auth: SiteAuth::Bearer(token(world, name)),
        content: Content::Json("{}".to_owned()),
    })
}

fn token(world: &World, name: &str) -> String {
    format!("{}-{name}", world.password)
}

/// A Connector to the upstream by this name, and its Secret.
fn connector(world: &World, connector: &str, host: &str) -> [Value; 2] {
    let login = format!("{connector}-token");
    let mut object = manifests::connector(TEAM, &format!("https://{host}:{PORT}"));
    object["metadata"]["name"] = connector.into();
    object["spec"]["connectorClassName"] = "generic-bearer".into();
    object["spec"]["auth"] = json!({"name": "bearerTokenAuth", "secretRef": {"name": login}});
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": login, "namespace": TEAM},
        "type": "connectors.cpaas.io/bearer-token",
        "stringData": {"token": token(world, host)},
    });
    [secret, object]
}

/// Lets [`NARROW`] use one Connector, and [`WIDE`] all of them.
fn roles() -> [Value; 3] {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": NARROW, "namespace": TEAM},
        "rules": [{
            "apiGroups": ["connectors.postern.dev"],
            "resources": ["connectors/proxy"],
            "resourceNames": ["registry"],
            "verbs": ["get"],
        }],
    });
    [
        role,
        binding(NARROW, "Role", NARROW),
        binding(WIDE, "ClusterRole", "postern-connector-user"),
    ]
}

fn binding(account: &str, kind: &str, role: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": account, "namespace": TEAM},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": TEAM}],
    })
}

/// What a pod is answered by an upstream, whoever vouches for that.
async fn answer(world: &World, pod: &str, host: &str) -> Result<String> {
    let ask = format!(
        "curl --insecure --silent --show-error --max-time 20 --output /dev/null \
         --write-out '%{{http_code}}' https://{host}:{PORT}/"
    );
    Ok(world.exec(TEAM, pod, &ask).await?.log)
}

async fn answers(world: &World, pod: &str, host: &str, expected: &str) -> Result<()> {
    wait::until(&format!("{expected} for {pod} by {host}"), async || {
        let answer = answer(world, pod, host).await?;
        Ok((answer == expected).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connectors_at_one_port_a_pod_gets_the_one_that_it_is_granted() -> Result<()> {
    let world = world().await?;
    let sites = [site(&world, REGISTRY)?, site(&world, SECOND)?];
    let nginx = Nginx::start(Some(world.node.sandbox()), &sites)?;
    let accounts = [NARROW, WIDE].map(|name| manifests::service_account(TEAM, name));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}});
    world.apply(&namespace.to_string())?;
    world.apply(&manifests::list(&accounts))?;
    let authority = manifests::authority(TEAM, &world.pki.ca_pem()?);
    world.apply(&authority.to_string())?;
    world.apply(&manifests::list(&connector(&world, "registry", REGISTRY)))?;
    world.apply(&manifests::list(&connector(&world, "second", SECOND)))?;
    world.apply(&manifests::list(&roles()))?;
    world.condition(TEAM, "Ready", "True").await?;
    for account in [NARROW, WIDE] {
        world.start_pod_as(account, TEAM, account, Trust::Postern, "sleep 1000")?;
        world.running(TEAM, account).await?;
    }
    // The node knows both Connectors now.
    answers(&world, WIDE, REGISTRY, "200").await?;
    answers(&world, WIDE, SECOND, "200").await?;
    answers(&world, NARROW, REGISTRY, "200").await?;
    // What is not granted is somebody else's server: it is passed through as it is.
    let before = nginx.requests()?.len();
    for _ in 0..5 {
        let code = answer(&world, NARROW, SECOND).await?;
        ensure!(code == "401", "{code}");
    }
    let requests = nginx.requests_after(before + 5)?;
    let bare = &requests[before..];
    ensure!(
        bare.iter().all(|it| it.authorization.is_none()),
        "{bare:#?}"
    );

    // Taken away while the other one has both.
    world.kubectl(&["delete", "rolebinding", NARROW, "--namespace", TEAM])?;
    answers(&world, NARROW, REGISTRY, "401").await?;
    answers(&world, WIDE, REGISTRY, "200").await?;
    answers(&world, WIDE, SECOND, "200").await
}
