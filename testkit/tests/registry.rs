//! The registry: who may push and pull, and what is left of it.

use anyhow::{Context, Result, ensure};
use testkit::command::stdout_of;
use testkit::{
    Pki, Registry, RegistryAuth, RegistryOptions, Sandbox, SandboxOptions, TempDir, TokenOptions,
    TokenServer, oci, proc, run_ok,
};

use crate::common::{at, curl, sandbox};

mod common;

/// The status that `curl` gets.
fn status(sandbox: &Sandbox, pki: &Pki, arguments: &[&str]) -> Result<String> {
    let mut curl = curl(sandbox, pki, arguments);
    curl.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
    stdout_of(curl)
}

/// `skopeo`, which trusts the authority and knows no password but the ones given.
fn skopeo_copy(sandbox: &Sandbox, pki: &Pki, files: &TempDir, arguments: &[&str]) -> Result<()> {
    let nobody = files.write("auth.json", "{}")?;
    let mut skopeo = sandbox.command("skopeo");
    skopeo
        .env("SSL_CERT_FILE", pki.ca())
        .args(["copy", "--insecure-policy", "--quiet"]);
    skopeo.arg("--authfile").arg(nobody).args(arguments);
    run_ok(skopeo).map(drop)
}

/// An image in a folder, as skopeo names it.
fn image(files: &TempDir) -> Result<String> {
    let path = files.join("image");
    oci::layout(&path, &[1000, 70_000])?;
    Ok(format!("oci:{}:latest", path.display()))
}

#[test]
fn a_registry_with_passwords() -> Result<()> {
    let sandbox = sandbox("registry.test")?;
    let pki = Pki::new()?;
    let files = TempDir::new("test")?;
    let registry = Registry::start(
        Some(&sandbox),
        &RegistryOptions {
            address: Some(at(443)?),
            tls: Some(pki.server(&["registry.test"])?),
            auth: RegistryAuth::Htpasswd {
                user: "ada".into(),
                password: "s3cret".into(),
            },
        },
    )?;

    let ping = "https://registry.test/v2/";
    ensure!(status(&sandbox, &pki, &[ping])? == "401");
    ensure!(status(&sandbox, &pki, &["--user", "ada:wrong", ping])? == "401");
    ensure!(status(&sandbox, &pki, &["--user", "ada:s3cret", ping])? == "200");

    let (from, to) = (image(&files)?, "docker://registry.test/some/image:1");
    let refused = skopeo_copy(&sandbox, &pki, &files, &[&from, to]);
    let refused = refused
        .err()
        .context("a push without a password succeeded")?;
    ensure!(
        refused.to_string().contains("authentication required"),
        "{refused:#}"
    );
    skopeo_copy(
        &sandbox,
        &pki,
        &files,
        &["--dest-creds", "ada:s3cret", &from, to],
    )?;
    let back = format!("dir:{}", files.join("back").display());
    skopeo_copy(
        &sandbox,
        &pki,
        &files,
        &["--src-creds", "ada:s3cret", to, &back],
    )?;
    ensure!(registry.storage().exists());

    let (pid, storage) = (registry.server().pid(), registry.storage());
    ensure!(proc::is_alive(pid));
    drop(registry);
    ensure!(!proc::is_alive(pid), "the registry outlives its value");
    ensure!(!storage.exists(), "the registry's files outlive its value");
    Ok(())
}

#[test]
fn a_registry_with_a_token_server() -> Result<()> {
    let sandbox = sandbox("registry.test")?;
    let pki = Pki::new()?;
    let files = TempDir::new("test")?;
    let certificate = pki.server(&["registry.test"])?;
    let mut options = TokenOptions::new("ada", "s3cret");
    options.address = Some(at(8443)?);
    options.tls = Some(certificate.clone());
    options.repositories = Some(vec!["team/image".to_owned()]);
    let tokens = TokenServer::start(Some(&sandbox), &options)?;
    let _registry = Registry::start(
        Some(&sandbox),
        &RegistryOptions {
            address: Some(at(443)?),
            tls: Some(certificate),
            auth: tokens.registry_auth("registry.test:8443"),
        },
    )?;

    let from = image(&files)?;
    let push = |to: &str, credentials: &str| {
        let to = format!("docker://registry.test/{to}");
        skopeo_copy(
            &sandbox,
            &pki,
            &files,
            &["--dest-creds", credentials, &from, &to],
        )
    };
    ensure!(
        push("team/image:1", "ada:wrong").is_err(),
        "a wrong password was accepted"
    );
    ensure!(
        push("other/image:1", "ada:s3cret").is_err(),
        "a foreign repository was accepted"
    );
    push("team/image:1", "ada:s3cret")?;

    let requests = tokens.requests();
    ensure!(
        requests.iter().any(|request| request.status == 401),
        "{requests:?}"
    );
    let granted = requests.iter().find(|request| {
        request.status == 200
            && request.service.as_deref() == Some("registry")
            && request
                .scopes
                .iter()
                .any(|scope| scope.starts_with("repository:team/image:"))
    });
    let authorization = granted.and_then(|request| request.authorization.as_deref());
    ensure!(
        authorization == Some("Basic YWRhOnMzY3JldA=="),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn a_failure_says_what_the_server_said() -> Result<()> {
    let options = RegistryOptions {
        address: Some("192.0.2.99:443".parse()?),
        ..RegistryOptions::default()
    };
    let sandbox = Sandbox::new(&SandboxOptions::default())?;
    let error = Registry::start(Some(&sandbox), &options)
        .err()
        .context("it started")?;
    let text = format!("{error:#}");
    ensure!(text.contains("cannot assign requested address"), "{text}");
    Ok(())
}
