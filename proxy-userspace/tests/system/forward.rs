//! The way in for those who cannot be redirected: proxy variables.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use testkit::{Content, Nginx, SiteAuth, git};

use crate::support::{self, PASSWORD, TOKEN, USER, World, counter, ok, output, stdout};

struct Proxied {
    world: World,
    nginx: Nginx,
    manifest: PathBuf,
}

impl Proxied {
    fn new() -> Result<Self> {
        let world = World::new(&["api.test", "plain.test", "other.test"])?;
        let mut plain = world.site(
            "plain.test",
            80,
            SiteAuth::Bearer(TOKEN.into()),
            Content::Json("{\"plain\":1}".into()),
        )?;
        plain.tls = None;
        let mut stranger = world.site(
            "other.test",
            80,
            SiteAuth::None,
            Content::Json("{\"other\":0}".into()),
        )?;
        stranger.tls = None;
        let nginx = world.nginx(&[
            world.site(
                "api.test",
                443,
                SiteAuth::Bearer(TOKEN.into()),
                Content::Json("{\"ok\":1}".into()),
            )?,
            world.site(
                "other.test",
                443,
                SiteAuth::None,
                Content::Json("{\"other\":1}".into()),
            )?,
            plain,
            stranger,
        ])?;
        let mut documents = support::bearer("api", "https://api.test").to_vec();
        documents.extend(support::bearer("plain", "http://plain.test"));
        let manifest = world.manifest(&documents)?;
        Ok(Self {
            world,
            nginx,
            manifest,
        })
    }

    fn run(&self, command: &[&str]) -> Result<std::process::Output> {
        output(
            self.world
                .run_with(&self.manifest, &["--mode", "forward", "--stats"], command),
        )
    }
}

#[test]
fn https_and_http_connectors_get_their_credential() -> Result<()> {
    let proxied = Proxied::new()?;
    for (url, body) in [
        ("https://api.test/", "{\"ok\":1}"),
        ("http://plain.test/", "{\"plain\":1}"),
    ] {
        for version in ["--http1.1", "--http2"] {
            let output = proxied.run(&["curl", "--silent", version, url])?;
            ensure!(stdout(&output) == body, "{url} {version}: {output:?}");
            ensure!(counter(&output, "injected")? == 1);
        }
    }
    Ok(())
}

#[test]
fn other_hosts_get_through_without_one() -> Result<()> {
    let proxied = Proxied::new()?;
    let ca = proxied.world.pki.ca();
    let ca = ca.to_string_lossy();
    let output = proxied.run(&["curl", "--silent", "--cacert", &ca, "https://other.test/"])?;
    ensure!(stdout(&output) == "{\"other\":1}", "{output:?}");
    ensure!(counter(&output, "spliced")? == 1 && counter(&output, "intercepted")? == 0);
    let output = proxied.run(&["curl", "--silent", "http://other.test/"])?;
    ensure!(stdout(&output) == "{\"other\":0}", "{output:?}");
    let requests = proxied.nginx.requests_after(2)?;
    ensure!(
        requests
            .iter()
            .all(|request| request.authorization.is_none()),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn the_proxy_serves_its_command_only() -> Result<()> {
    let proxied = Proxied::new()?;
    let script = "unauthenticated=${https_proxy#*@}; \
                  curl --silent --output /dev/null --write-out '%{http_connect}' --proxy http://$unauthenticated https://api.test/; \
                  curl --silent --output /dev/null --write-out ' %{http_connect}' --proxy http://postern:guess@$unauthenticated https://api.test/";
    let output = proxied.run(&["sh", "-c", script])?;
    ensure!(stdout(&output) == "407 407", "{output:?}");
    ensure!(proxied.nginx.requests()?.is_empty());
    Ok(())
}

#[test]
fn a_server_name_other_than_the_tunnels_is_refused() -> Result<()> {
    let proxied = Proxied::new()?;
    let output = proxied.run(&[
        "curl",
        "--silent",
        "--connect-to",
        "other.test:443:api.test:443",
        "https://other.test/",
    ])?;
    ensure!(!output.status.success(), "{output:?}");
    ensure!(proxied.nginx.requests()?.is_empty());
    Ok(())
}

#[test]
fn it_works_without_root_and_says_so() -> Result<()> {
    let proxied = Proxied::new()?;
    std::fs::set_permissions(
        proxied.world.files.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let mut run = proxied.world.sandbox.command("setpriv");
    // The binary may lie where only root gets to.
    let binary = proxied.world.files.join("postern");
    std::fs::copy(env!("CARGO_BIN_EXE_postern"), &binary)?;
    run.args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .args(["run", "-f"])
        .arg(&proxied.manifest)
        .args(["--", "curl", "--silent", "https://api.test/"])
        .env_remove("XDG_RUNTIME_DIR");
    let output = ok(run)?;
    ensure!(stdout(&output) == "{\"ok\":1}", "{output:?}");
    ensure!(
        support::stderr(&output).contains("--mode forward"),
        "{output:?}"
    );
    Ok(())
}

#[test]
fn git_pushes_through_the_proxy() -> Result<()> {
    let world = World::new(&["git.test"])?;
    let repositories = world.files.join("repositories");
    git::bare_repository(&repositories.join("demo.git"))?;
    let _nginx = world.nginx(&[world.site(
        "git.test",
        443,
        SiteAuth::Basic {
            user: USER.into(),
            password: PASSWORD.into(),
        },
        Content::Git(repositories),
    )?])?;
    let manifest = world.manifest(&support::basic("git", "git", "https://git.test"))?;
    let script = "set -e; git clone --quiet https://git.test/demo.git work; cd work; echo x > x; git add x; \
                  git commit --quiet --message=More; git push --quiet origin main";
    let mut run = world
        .sandbox
        .command_in(world.files.path(), env!("CARGO_BIN_EXE_postern"));
    run.args(["run", "--mode", "forward", "-f"])
        .arg(manifest)
        .args(["--", "sh", "-c", script]);
    git::isolate(&mut run);
    run.env("GIT_TERMINAL_PROMPT", "0");
    ok(run)?;
    Ok(())
}

#[test]
fn exceptions_do_not_lead_around_the_proxy() -> Result<()> {
    let proxied = Proxied::new()?;
    let mut run = proxied.world.run_with(
        &proxied.manifest,
        &["--mode", "forward"],
        &[
            "sh",
            "-c",
            "curl --silent https://api.test/; echo; echo $NO_PROXY",
        ],
    );
    run.env("NO_PROXY", "localhost,.test,example.org")
        .env("no_proxy", "*");
    let output = ok(run)?;
    ensure!(
        stdout(&output) == "{\"ok\":1}\nlocalhost,example.org",
        "{output:?}"
    );
    Ok(())
}

#[test]
fn a_proxy_of_the_users_own_does_not_take_redirected_connections_away() -> Result<()> {
    let proxied = Proxied::new()?;
    let mut run = proxied.world.run(
        &proxied.manifest,
        &["curl", "--silent", "https://api.test/"],
    );
    run.env("https_proxy", "http://192.0.2.200:3128");
    let output = ok(run)?;
    ensure!(stdout(&output) == "{\"ok\":1}", "{output:?}");
    Ok(())
}
