//! Git over HTTPS and token-protected APIs.

use anyhow::{Result, ensure};
use testkit::{Content, SiteAuth, git};

use crate::support::{self, PASSWORD, TOKEN, USER, World, counter, ok, output, stdout};

#[test]
fn git_clones_and_pushes_without_a_password() -> Result<()> {
    let world = World::new(&["git.test"])?;
    let repositories = world.files.join("repositories");
    git::bare_repository(&repositories.join("team/demo.git"))?;
    let nginx = world.nginx(&[world.site(
        "git.test",
        443,
        SiteAuth::Basic {
            user: USER.into(),
            password: PASSWORD.into(),
        },
        Content::Git(repositories),
    )?])?;
    let manifest = world.manifest(&support::basic("git", "git", "https://git.test"))?;
    // More than git buffers, so that the push is sent in chunks.
    let script = "set -e; git clone --quiet https://git.test/team/demo.git work; cd work; \
                  head -c 3000000 /dev/urandom > large; git add large; \
                  git commit --quiet --message=Second; git push --quiet origin main; \
                  git ls-remote origin main";
    let mut run = world.run(&manifest, &["sh", "-c", script]);
    git::isolate(&mut run);
    run.env("GIT_TERMINAL_PROMPT", "0");
    let run = {
        let mut inside = world
            .sandbox
            .command_in(world.files.path(), env!("CARGO_BIN_EXE_postern"));
        inside
            .arg("run")
            .arg("-f")
            .arg(&manifest)
            .args(["--", "sh", "-c", script]);
        git::isolate(&mut inside);
        inside.env("GIT_TERMINAL_PROMPT", "0");
        drop(run);
        inside
    };
    let output = ok(run)?;
    ensure!(stdout(&output).contains("refs/heads/main"));
    let expected = support::basic_header();
    let requests = nginx.requests_after(3)?;
    ensure!(
        requests
            .iter()
            .all(|request| request.authorization.as_deref() == Some(expected.as_str())),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn an_api_gets_its_token_over_both_http_versions() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let site = world.site(
        "api.test",
        8443,
        SiteAuth::Bearer(TOKEN.into()),
        Content::Json("{\"ok\":1}".into()),
    )?;
    let nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test:8443"))?;
    for version in ["--http1.1", "--http2"] {
        let run = world.run(
            &manifest,
            &[
                "curl",
                "--silent",
                version,
                "https://api.test:8443/v1/x?y=z",
            ],
        );
        ensure!(stdout(&ok(run)?) == "{\"ok\":1}");
    }
    let requests = nginx.requests_after(2)?;
    let expected = format!("Bearer {TOKEN}");
    for (request, protocol) in requests.iter().zip(["HTTP/1.1", "HTTP/2.0"]) {
        ensure!(request.protocol == protocol, "{request:?}");
        ensure!(
            request.uri == "/v1/x?y=z" && request.host == "api.test:8443",
            "{request:?}"
        );
        ensure!(
            request.authorization.as_deref() == Some(expected.as_str()),
            "{request:?}"
        );
    }
    Ok(())
}

#[test]
fn an_address_works_in_place_of_a_name() -> Result<()> {
    let world = World::new(&[])?;
    let world = World {
        sandbox: testkit::Sandbox::new(&testkit::SandboxOptions {
            addresses: vec![support::ADDRESS.parse()?],
            ..testkit::SandboxOptions::default()
        })?,
        ..world
    };
    let site = world.site(
        support::ADDRESS,
        443,
        SiteAuth::Bearer(TOKEN.into()),
        Content::Json("{}".into()),
    )?;
    let _nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&support::bearer("api", "https://192.0.2.10"))?;
    let run = world.run(
        &manifest,
        &["curl", "--silent", "--fail", "https://192.0.2.10/"],
    );
    ensure!(stdout(&ok(run)?) == "{}");
    Ok(())
}

#[test]
fn a_rejected_token_is_502_with_the_reason_and_without_the_challenge() -> Result<()> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer("another-token".into()))?;
    let run = world.run(
        &manifest,
        &["curl", "--silent", "--include", "https://api.test/"],
    );
    let text = stdout(&ok(run)?);
    ensure!(
        text.contains(" 502") && text.contains("default/api") && text.contains("Secret"),
        "{text}"
    );
    ensure!(
        !text.to_ascii_lowercase().contains("www-authenticate"),
        "{text}"
    );
    ensure!(!text.contains(TOKEN), "{text}");
    Ok(())
}

#[test]
fn only_paths_below_the_address_get_the_credential() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let site = world.site("api.test", 443, SiteAuth::None, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test/team"))?;
    let script = "for path in team team/x teams other team/../other; do \
                  curl --silent --path-as-is --output /dev/null -w '%{http_code} ' https://api.test/$path; done";
    let run = world.run_with(&manifest, &["--stats"], &["sh", "-c", script]);
    let output = ok(run)?;
    ensure!(
        stdout(&output) == "200 200 200 200 400",
        "{}",
        stdout(&output)
    );
    ensure!(counter(&output, "injected")? == 2 && counter(&output, "plain")? == 2);
    let seen: Vec<_> = nginx
        .requests_after(4)?
        .into_iter()
        .map(|request| (request.uri, request.authorization.is_some()))
        .collect();
    let expected = [
        ("/team", true),
        ("/team/x", true),
        ("/teams", false),
        ("/other", false),
    ];
    ensure!(
        seen == expected.map(|(uri, injected)| (uri.to_owned(), injected)),
        "{seen:?}"
    );
    Ok(())
}

#[test]
fn what_a_client_may_send_itself_is_the_connectors_choice() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let site = world.site("api.test", 443, SiteAuth::None, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    for (choice, expected) in [
        ("Replace", Some(format!("Bearer {TOKEN}"))),
        ("Keep", Some("Bearer own".to_owned())),
        ("Reject", None),
    ] {
        let [mut connector, secret] = support::bearer("api", "https://api.test");
        connector.push_str("  interception:\n    clientAuthorization: ");
        connector.push_str(choice);
        connector.push('\n');
        let manifest = world.manifest(&[connector, secret])?;
        let before = nginx.requests()?.len();
        let run = world.run(
            &manifest,
            &[
                "curl",
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--oauth2-bearer",
                "own",
                "https://api.test/",
            ],
        );
        let status = stdout(&ok(run)?);
        let seen = nginx.requests()?.split_off(before);
        let Some(expected) = expected else {
            ensure!(
                status == "403" && seen.is_empty(),
                "{choice}: {status} {seen:?}"
            );
            continue;
        };
        let seen = nginx.requests_after(before + 1)?.split_off(before);
        ensure!(
            status == "200" && seen[0].authorization.as_deref() == Some(expected.as_str()),
            "{choice}: {status} {seen:?}"
        );
    }
    Ok(())
}

#[test]
fn the_client_that_does_not_trust_us_is_named_with_the_remedy() -> Result<()> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let ca = world.pki.ca();
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let mut run = world.run_with(&manifest, &["--stats"], &["curl", "--silent"]);
        let (flag, value) = version.split_once('=').unwrap_or((version, ""));
        run.arg(flag);
        if !value.is_empty() {
            run.arg(value);
        }
        run.arg("--cacert").arg(&ca).arg("https://api.test/");
        let output = output(run)?;
        ensure!(output.status.code() == Some(60), "{version}: {output:?}");
        let log = support::stderr(&output);
        ensure!(
            log.contains("curl does not trust Postern")
                && log.contains("api.test")
                && log.contains("SSL_CERT_FILE"),
            "{version}: {log}"
        );
        ensure!(counter(&output, "untrusting")? == 1);
    }
    Ok(())
}

#[test]
fn a_refused_upload_is_answered_instead_of_reset() -> Result<()> {
    let (world, _nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let script = "head -c 8000000 /dev/zero | curl --silent --http1.1 --include -H 'Host: other.test' \
                  -H 'Expect:' -T - https://api.test/upload";
    let text = stdout(&ok(world.run(&manifest, &["sh", "-c", script]))?);
    ensure!(
        text.starts_with("HTTP/1.1 421") && text.contains("another host"),
        "{text}"
    );
    ensure!(
        text.to_ascii_lowercase().contains("connection: close"),
        "{text}"
    );
    Ok(())
}

#[test]
fn methods_that_would_leak_or_tunnel_are_refused() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let site = world.site("api.test", 443, SiteAuth::None, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&support::bearer("api", "https://api.test"))?;
    let script = "curl --silent -o /dev/null -w '%{http_code}\\n' -X TRACE https://api.test/; \
                  printf 'CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\nConnection: close\\r\\n\\r\\n' \
                  | openssl s_client -quiet -connect api.test:443 -servername api.test 2>/dev/null \
                  | head -1";
    let text = stdout(&ok(world.run(&manifest, &["sh", "-c", script]))?);
    ensure!(text.starts_with("405\nHTTP/1.1 405 "), "{text}");
    ensure!(nginx.requests()?.is_empty());
    Ok(())
}
