//! The servers serve, refuse who is not allowed, and are gone when their value is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::command::stdout_of;
use testkit::{
    Content, Nginx, Pki, Registry, RegistryAuth, RegistryOptions, Sandbox, SandboxOptions, Site,
    SiteAuth, TempDir, TokenOptions, TokenServer, git, oci, proc, run_ok,
};

const ADDRESS: &str = "192.0.2.10";

fn sandbox(name: &str) -> Result<Sandbox> {
    let address: IpAddr = ADDRESS.parse()?;
    Sandbox::new(&SandboxOptions::default().host(name, address))
}

fn at(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ADDRESS.parse()?, port))
}

/// `curl`, which trusts the authority.
fn curl(sandbox: &Sandbox, pki: &Pki, arguments: &[&str]) -> Command {
    let mut curl = sandbox.command("curl");
    curl.args(["--silent", "--show-error", "--cacert"])
        .arg(pki.ca())
        .args(arguments);
    curl
}

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

#[test]
fn a_sandbox_is_a_network_of_its_own_and_nothing_else() -> Result<()> {
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse()?, "2001:db8::7".parse()?);
    let options = SandboxOptions::default()
        .host("four.test", v4)
        .host("six.test", v6);
    let sandbox = Sandbox::new(&options)?;
    let inside = |script: &str| {
        let mut sh = sandbox.command("sh");
        sh.args(["-c", script]);
        stdout_of(sh)
    };
    ensure!(inside("getent ahosts four.test")?.starts_with("192.0.2.7"));
    ensure!(inside("getent ahosts six.test")?.starts_with("2001:db8::7"));
    ensure!(inside("ip -oneline link")?.lines().count() == 1);
    ensure!(inside("pwd")? == std::env::current_dir()?.display().to_string());
    ensure!(
        inside("cat /proc/self/cgroup")? == fs::read_to_string("/proc/self/cgroup")?.trim_end()
    );
    let kinds = inside("cut -d' ' -f3 /proc/mounts")?;
    ensure!(
        kinds.lines().any(|kind| kind == "bpf"),
        "bpffs is not visible"
    );
    ensure!(
        kinds.lines().any(|kind| kind == "cgroup2"),
        "cgroup2 is not visible"
    );
    ensure!(!fs::read_to_string("/etc/hosts")?.contains("four.test"));

    let pid = sandbox.pid();
    drop(sandbox);
    ensure!(!proc::is_alive(pid));
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

/// Not a test of its own: the process that the next test kills.
#[test]
fn holder() -> Result<()> {
    if std::env::var_os(HOLD).is_some() {
        let sandbox = Sandbox::new(&SandboxOptions::default())?;
        println!("pid {}.", sandbox.pid());
        std::thread::sleep(Duration::from_mins(10));
    }
    Ok(())
}

const HOLD: &str = "TESTKIT_HOLD";

#[test]
fn nothing_outlives_a_killed_process() -> Result<()> {
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(holder.stdout.take().context("no output")?);
    let pid = output.lines().map_while(Result::ok).find_map(|line| {
        // The test runner writes to the same line.
        line.split_once("pid ")?
            .1
            .trim_end_matches('.')
            .parse::<u32>()
            .ok()
    });
    let pid = pid.context("the holder named no process")?;
    ensure!(proc::is_alive(pid));
    holder.kill()?;
    holder.wait()?;
    for _ in 0..1000 {
        if !proc::is_alive(pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} outlives the one that started it")
}
