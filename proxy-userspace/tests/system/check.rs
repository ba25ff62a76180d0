//! `postern check`.

use anyhow::{Result, ensure};
use testkit::{Content, SiteAuth};

use crate::support::{self, PASSWORD, TOKEN, USER, World, at, output, stderr, stdout};

fn check(world: &World, documents: &[String]) -> Result<std::process::Output> {
    let manifest = world.manifest(documents)?;
    let mut check = world.postern(&["check", "-f"]);
    check.arg(manifest);
    output(check)
}

#[test]
fn ready_connectors_are_ready() -> Result<()> {
    let world = World::new(&["api.test", "registry.test", "tokens.test", "auth.test"])?;
    let _nginx = world.nginx(&[world.site(
        "api.test",
        443,
        SiteAuth::Bearer(TOKEN.into()),
        Content::Json("{}".into()),
    )?])?;
    let _registry = world.registry("registry.test", 5000)?;
    let tokens = testkit::TokenServer::start(
        Some(&world.sandbox),
        &testkit::TokenOptions {
            address: Some(at(5001)?),
            tls: Some(world.certificate(&["auth.test"])?),
            ..testkit::TokenOptions::new(USER, PASSWORD)
        },
    )?;
    let _with_tokens = testkit::Registry::start(
        Some(&world.sandbox),
        &testkit::RegistryOptions {
            address: Some(at(5002)?),
            tls: Some(world.certificate(&["tokens.test"])?),
            auth: tokens.registry_auth("auth.test:5001"),
        },
    )?;
    let mut documents = support::bearer("api", "https://api.test").to_vec();
    documents.extend(support::oci("registry", "https://registry.test:5000"));
    documents.extend(support::oci("tokens", "https://tokens.test:5002"));
    let output = check(&world, &documents)?;
    let text = stdout(&output);
    ensure!(output.status.success(), "{text}\n{}", stderr(&output));
    for name in ["default/api", "default/registry", "default/tokens"] {
        let row = text.lines().find(|line| line.contains(name));
        ensure!(
            row.is_some_and(|row| row.contains("True") && !row.contains("False")),
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn what_is_not_ready_says_why_and_fails() -> Result<()> {
    let world = World::new(&["registry.test", "dead.test"])?;
    let _registry = world.registry("registry.test", 5000)?;
    let wrong = [("username", USER), ("password", "wrong-password")];
    let mut documents = vec![
        support::connector("wrong", "oci", "https://registry.test:5000", "tokenAuth"),
        support::secret("wrong", "cpaas.io/distribution-registry-token", &wrong),
    ];
    documents.extend(support::bearer("dead", "https://dead.test"));
    let output = check(&world, &documents)?;
    let text = stdout(&output);
    ensure!(!output.status.success(), "{text}");
    ensure!(
        text.contains("AuthenticationFailed") && text.contains("ConnectionFailed"),
        "{text}"
    );
    ensure!(!text.contains("wrong-password") && !stderr(&output).contains("wrong-password"));
    Ok(())
}

#[test]
fn faulty_manifests_are_reported_without_probing() -> Result<()> {
    let world = World::new(&[])?;
    let [connector, _] = support::bearer("api", "https://api.test");
    let output = check(&world, &[connector])?;
    ensure!(output.status.code() == Some(125), "{}", output.status);
    ensure!(
        stderr(&output).contains("spec.auth.secretRef"),
        "{}",
        stderr(&output)
    );
    Ok(())
}
