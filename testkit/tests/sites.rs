//! The sites of nginx: git, APIs, files, other servers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use testkit::command::stdout_of;
use testkit::{Content, Nginx, Pki, Site, SiteAuth, TempDir, git, run_ok};

use crate::common::{ADDRESS, at, curl, sandbox};

mod common;

#[test]
fn git_over_https() -> Result<()> {
    let sandbox = sandbox("git.test")?;
    let pki = Pki::new()?;
    let files = TempDir::new("test")?;
    git::bare_repository(&files.join("repositories/team/demo.git"))?;
    let site = Site {
        name: "git.test".to_owned(),
        address: at(443)?,
        tls: Some(pki.server(&["git.test"])?),
        auth: SiteAuth::Basic {
            user: "ada".into(),
            password: "s3cret".into(),
        },
        content: Content::Git(files.join("repositories")),
    };
    let nginx = Nginx::start(Some(&sandbox), &[site])?;

    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = sandbox.command_in(folder, "git");
        git::isolate(&mut command);
        command.env("GIT_SSL_CAINFO", pki.ca()).args(arguments);
        run_ok(command)
    };
    let folder = files.path();
    let refused = git(
        folder,
        &["clone", "https://git.test/team/demo.git", "refused"],
    );
    ensure!(refused.is_err(), "a clone without a password succeeded");

    git(
        folder,
        &["clone", "https://ada:s3cret@git.test/team/demo.git", "work"],
    )?;
    let work = files.join("work");
    // More than git buffers, so that the push is sent in chunks.
    fs::write(work.join("large"), noise(3 << 20))?;
    git(&work, &["add", "large"])?;
    git(&work, &["commit", "--quiet", "--message=Second"])?;
    git(&work, &["push", "--quiet", "origin", "main"])?;

    let mut log = git::command();
    log.arg("-C")
        .arg(files.join("repositories/team/demo.git"))
        .args(["log", "--format=%s", "main"]);
    ensure!(stdout_of(log)? == "Second\nFirst");

    let requests = nginx.requests_after(1)?;
    ensure!(
        requests
            .iter()
            .any(|r| r.status == 401 && r.authorization.is_none()),
        "{requests:?}"
    );
    let pushed = requests
        .iter()
        .find(|r| r.uri == "/team/demo.git/git-receive-pack");
    let pushed = pushed.context("no push in the log")?;
    ensure!(pushed.status == 200 && pushed.method == "POST" && pushed.host == "git.test");
    ensure!(pushed.authorization.as_deref() == Some("Basic YWRhOnMzY3JldA=="));
    Ok(())
}

/// Bytes that git cannot compress.
fn noise(count: u32) -> Vec<u8> {
    (0..count)
        .map(|n| (n.wrapping_mul(2_654_435_761).rotate_left(n) >> 13).to_le_bytes()[0])
        .collect()
}

#[test]
fn sites_of_every_kind() -> Result<()> {
    let sandbox = sandbox("api.test")?;
    let pki = Pki::new()?;
    let files = TempDir::new("test")?;
    files.write("blob", vec![7; 1 << 20])?;
    let tls = Some(pki.server(&["api.test"])?);
    let site = |port, content, auth| -> Result<Site> {
        Ok(Site {
            name: "api.test".into(),
            address: at(port)?,
            tls: tls.clone(),
            auth,
            content,
        })
    };
    let json = Content::Json(r#"{"answer": 42}"#.to_owned());
    let plain = SocketAddr::new(ADDRESS.parse()?, 80);
    let sites = [
        site(443, json, SiteAuth::Bearer("t0ken".to_owned()))?,
        site(444, Content::Files(files.path().to_owned()), SiteAuth::None)?,
        site(445, Content::Proxy(plain), SiteAuth::None)?,
        site(
            446,
            Content::Redirect("https://api.test:444".to_owned()),
            SiteAuth::None,
        )?,
        Site {
            name: "_".to_owned(),
            address: plain,
            tls: None,
            auth: SiteAuth::None,
            content: Content::Json("\"behind\"".to_owned()),
        },
    ];
    let nginx = Nginx::start(Some(&sandbox), &sites)?;

    let challenge = stdout_of(curl(
        &sandbox,
        &pki,
        &["--http1.1", "-D-", "https://api.test/"],
    ))?;
    ensure!(challenge.starts_with("HTTP/1.1 401"), "{challenge}");
    ensure!(
        challenge.contains("WWW-Authenticate: Bearer"),
        "{challenge}"
    );
    let get = |arguments: &[&str]| stdout_of(curl(&sandbox, &pki, arguments));
    let header = "Authorization: Bearer t0ken";
    ensure!(get(&["--header", header, "https://api.test/x"])? == r#"{"answer": 42}"#);
    ensure!(get(&["https://api.test:444/blob"])?.len() == 1 << 20);
    ensure!(get(&["https://api.test:445/"])? == "\"behind\"");
    ensure!(get(&["--location", "https://api.test:446/blob"])?.len() == 1 << 20);
    ensure!(get(&["http://api.test/"])? == "\"behind\"");

    let requests = nginx.requests_after(8)?;
    let seen = requests
        .iter()
        .find(|request| request.uri == "/x")
        .context("no request")?;
    ensure!(seen.authorization.as_deref() == Some("Bearer t0ken"));
    ensure!(seen.protocol == "HTTP/2.0" && seen.server_name.as_deref() == Some("api.test"));
    Ok(())
}
