//! A real registry, pushed to and pulled from by a client that holds no credential.

use anyhow::{Context, Result, ensure};
use testkit::{Registry, RegistryOptions, TokenOptions, TokenServer, command::describe, oci};

use crate::support::{self, PASSWORD, USER, World, at, counter, ok, output, stderr, stdout};

const REGISTRY: &str = "registry.test";

fn image(world: &World, name: &str, layers: &[usize]) -> Result<String> {
    let dir = world.files.join(name);
    oci::layout(&dir, layers)?;
    Ok(format!("oci:{}:latest", dir.display()))
}

/// Pushes an image and pulls it back, without a credential.
fn push_and_pull(world: &World, manifest: &std::path::PathBuf, reference: &str) -> Result<()> {
    let from = image(world, "image", &[1000, 70_000])?;
    ok(world.skopeo_copy(manifest, &from, reference)?).context("push")?;
    let back = format!("dir:{}", world.files.join("back").display());
    ok(world.skopeo_copy(manifest, reference, &back)?).context("pull")?;
    Ok(())
}

#[test]
fn push_and_pull_with_a_password() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let registry = world.registry(REGISTRY, 5000)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test:5000"))?;
    let reference = "docker://registry.test:5000/team/app:1";

    let mut direct = world.sandbox.command("skopeo");
    direct.args([
        "inspect",
        "--tls-verify=false",
        "--authfile",
        "/dev/null",
        reference,
    ]);
    ensure!(
        !output(direct)?.status.success(),
        "the registry is open to everybody"
    );

    push_and_pull(&world, &manifest, reference)?;
    ensure!(registry.storage().exists());
    Ok(())
}

#[test]
fn push_and_pull_with_tokens() -> Result<()> {
    let world = World::new(&[REGISTRY, "auth.test"])?;
    let tokens = TokenServer::start(
        Some(&world.sandbox),
        &TokenOptions {
            address: Some(at(5001)?),
            tls: Some(world.certificate(&["auth.test"])?),
            ..TokenOptions::new(USER, PASSWORD)
        },
    )?;
    let _registry = Registry::start(
        Some(&world.sandbox),
        &RegistryOptions {
            address: Some(at(5000)?),
            tls: Some(world.certificate(&[REGISTRY])?),
            auth: tokens.registry_auth("auth.test:5001"),
        },
    )?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test:5000"))?;
    push_and_pull(&world, &manifest, "docker://registry.test:5000/team/app:1")?;

    let asked = tokens.requests();
    ensure!(!asked.is_empty(), "no token was asked for");
    ensure!(
        asked
            .iter()
            .all(|request| request.authorization.as_deref() == Some(&support::basic_header())),
        "{asked:?}"
    );
    Ok(())
}

#[test]
fn a_docker_config_secret_works_and_so_does_plain_http() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let _registry = Registry::start(
        Some(&world.sandbox),
        &RegistryOptions {
            address: Some(at(5000)?),
            tls: None,
            auth: testkit::RegistryAuth::Htpasswd {
                user: USER.into(),
                password: PASSWORD.into(),
            },
        },
    )?;
    let auth = testkit::base64::encode(format!("{USER}:{PASSWORD}"));
    let config = format!(r#"{{"auths":{{"registry.test:5000":{{"auth":"{auth}"}}}}}}"#);
    let manifest = world.manifest(&[
        support::connector("registry", "oci", "http://registry.test:5000", "basicAuth"),
        support::secret(
            "registry",
            "kubernetes.io/dockerconfigjson",
            &[(".dockerconfigjson", &config)],
        ),
    ])?;
    let from = image(&world, "image", &[1000])?;
    let mut push = world.skopeo_copy(&manifest, &from, "docker://registry.test:5000/team/app:1")?;
    push.arg("--dest-tls-verify=false");
    ok(push)?;
    Ok(())
}

#[test]
fn the_client_never_sees_a_challenge() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let _registry = world.registry(REGISTRY, 443)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test"))?;
    let run = world.run(
        &manifest,
        &["curl", "--silent", "--include", "https://registry.test/v2/"],
    );
    let text = stdout(&ok(run)?).to_ascii_lowercase();
    ensure!(
        text.contains(" 200") && text.contains("docker-distribution-api-version"),
        "{text}"
    );
    ensure!(!text.contains("www-authenticate"), "{text}");
    Ok(())
}

#[test]
fn a_rejected_credential_is_denied_in_json_and_keeps_the_challenge_back() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let _registry = world.registry(REGISTRY, 443)?;
    let wrong = [("username", USER), ("password", "wrong-password")];
    let manifest = world.manifest(&[
        support::connector("registry", "oci", "https://registry.test", "basicAuth"),
        support::secret("registry", "kubernetes.io/basic-auth", &wrong),
    ])?;
    let url = "https://registry.test/v2/team/app/manifests/1";
    let run = world.run(&manifest, &["curl", "--silent", "--include", url]);
    let output = ok(run)?;
    let text = stdout(&output);
    ensure!(
        text.contains(" 403") && text.contains("\"DENIED\""),
        "{text}"
    );
    ensure!(
        text.contains("default/registry"),
        "the answer names no Connector: {text}"
    );
    ensure!(
        !text.to_ascii_lowercase().contains("www-authenticate"),
        "{text}"
    );
    ensure!(!text.contains("wrong-password") && !stderr(&output).contains("wrong-password"));
    Ok(())
}

#[test]
fn a_credential_of_the_client_is_replaced() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let _registry = world.registry(REGISTRY, 443)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test"))?;
    let run = world.run(
        &manifest,
        &[
            "curl",
            "--silent",
            "--user",
            "somebody:else",
            "https://registry.test/v2/_catalog",
        ],
    );
    ensure!(stdout(&ok(run)?).contains("repositories"));
    Ok(())
}

#[test]
fn a_large_blob_streams_with_flat_memory() -> Result<()> {
    const LAYER: usize = 200 << 20;
    const ALLOWED_KIB: u64 = 64 * 1024;
    let world = World::new(&[REGISTRY])?;
    let _registry = world.registry(REGISTRY, 5000)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test:5000"))?;
    let from = image(&world, "image", &[LAYER])?;
    let reference = "docker://registry.test:5000/team/large:1";
    let back = format!("dir:{}", world.files.join("back").display());
    for (from, to) in [(from.as_str(), reference), (reference, &back)] {
        let mut copy = world.skopeo_copy(&manifest, from, to)?;
        // The layer as it is: compression would be skopeo's own work.
        copy.arg("--preserve-digests");
        let peak = peak_memory_kib(copy)?;
        ensure!(peak < ALLOWED_KIB, "{from} to {to}: {peak} KiB at the most");
    }
    Ok(())
}

/// Largest resident size of `postern` itself, in KiB, while its command runs.
fn peak_memory_kib(mut command: std::process::Command) -> Result<u64> {
    let shown = describe(&command);
    let mut child = testkit::spawn(&command, |_| ())?;
    let _ = &mut command;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        // The high-water mark: a peak between two looks counts as well.
        if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:"))
            && status.starts_with("Name:\tpostern")
        {
            let digits: String = line.chars().filter(char::is_ascii_digit).collect();
            peak = peak.max(digits.parse().unwrap_or(0));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    ensure!(status.success(), "{shown}: {status}");
    ensure!(peak > 0, "the process was never seen");
    Ok(peak)
}

#[test]
fn other_hosts_of_the_same_address_are_passed_through_untouched() -> Result<()> {
    let world = World::new(&[REGISTRY, "other.test"])?;
    let nginx = world.nginx(&[
        world.site(
            "other.test",
            443,
            testkit::SiteAuth::None,
            testkit::Content::Json("{\"other\":1}".into()),
        )?,
        world.site(
            REGISTRY,
            443,
            testkit::SiteAuth::None,
            testkit::Content::Json("{}".into()),
        )?,
    ])?;
    let manifest = world.manifest(&support::basic(
        "registry",
        "generic-basic",
        "https://registry.test",
    ))?;
    let ca = world.pki.ca();
    let ca = ca.to_str().context("a path that is no text")?;
    // It trusts the server's CA alone: Postern's certificate would not do.
    let run = world.run_with(
        &manifest,
        &["--stats"],
        &["curl", "--silent", "--cacert", ca, "https://other.test/"],
    );
    let output = ok(run)?;
    ensure!(stdout(&output) == "{\"other\":1}", "{}", stdout(&output));
    ensure!(counter(&output, "spliced")? == 1 && counter(&output, "intercepted")? == 0);
    let requests = nginx.requests_after(1)?;
    ensure!(
        requests
            .iter()
            .all(|request| request.authorization.is_none()),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn hosts_at_other_addresses_do_not_even_pass_postern() -> Result<()> {
    let world = World::with(
        &testkit::SandboxOptions::default()
            .host(REGISTRY, support::ADDRESS.parse()?)
            .host("elsewhere.test", "192.0.2.99".parse()?),
    )?;
    let mut site = world.site(
        "elsewhere.test",
        443,
        testkit::SiteAuth::None,
        testkit::Content::Json("{}".into()),
    )?;
    site.address.set_ip("192.0.2.99".parse()?);
    let _nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&support::basic(
        "registry",
        "generic-basic",
        "https://registry.test",
    ))?;
    let ca = world.pki.ca();
    let ca = ca.to_str().context("a path that is no text")?;
    let run = world.run_with(
        &manifest,
        &["--stats"],
        &[
            "curl",
            "--silent",
            "--cacert",
            ca,
            "https://elsewhere.test/",
        ],
    );
    let output = ok(run)?;
    ensure!(counter(&output, "untouched")? == 1 && counter(&output, "redirected")? == 0);
    ensure!(counter(&output, "accepted")? == 0);
    Ok(())
}

#[test]
fn a_token_service_on_the_registrys_host_gives_clients_nothing_of_worth() -> Result<()> {
    let world = World::new(&[REGISTRY])?;
    let tokens = TokenServer::start(
        Some(&world.sandbox),
        &TokenOptions {
            address: Some(at(5001)?),
            tls: Some(world.certificate(&[REGISTRY])?),
            ..TokenOptions::new(USER, PASSWORD)
        },
    )?;
    let _registry = Registry::start(
        Some(&world.sandbox),
        &RegistryOptions {
            address: Some(at(5000)?),
            tls: Some(world.certificate(&[REGISTRY])?),
            auth: tokens.registry_auth("registry.test:5001"),
        },
    )?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test:5000"))?;
    push_and_pull(&world, &manifest, "docker://registry.test:5000/team/app:1")?;
    // Asked without Postern's help, the service knows nobody.
    let url = "https://registry.test:5001/token?service=registry&scope=repository:team/app:pull";
    let ca = world.pki.ca();
    let ca = ca.to_str().context("a path that is no text")?;
    let run = world.run(
        &manifest,
        &[
            "curl",
            "--silent",
            "--cacert",
            ca,
            "-w",
            "%{http_code}",
            url,
        ],
    );
    ensure!(stdout(&ok(run)?).ends_with("401"));
    Ok(())
}
