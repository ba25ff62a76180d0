//! The main job on real input: a registry, a git server and an API that want credentials,
//! used by commands that have none.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::command::{describe, stdout_of, stop};
use testkit::maps::{self, Map};
use testkit::report::{COMMAND_LIMIT, Report};
use testkit::{git, leaks, run_ok, run_within, spawn};

use self::world::{ANSWER, World};

mod world;

/// Runs the demo with this binary.
pub(crate) fn perform(postern: &Path) -> Result<()> {
    println!(
        "demo: starting docker-registry, git over HTTPS and an API, all of which want credentials"
    );
    let demo = Demo {
        postern: postern.to_owned(),
        world: World::start()?,
    };
    let mut report = Report::default();
    let outcome = demo.tell(&mut report);
    println!("\n{report}");
    outcome.context("demo")?;
    println!("demo: ok");
    Ok(())
}

struct Demo {
    postern: PathBuf,
    world: World,
}

impl Demo {
    fn tell(&self, report: &mut Report) -> Result<()> {
        self.registry(report)?;
        self.git(report)?;
        self.api(report)?;
        self.proof(report)
    }

    /// Pushes and pulls an image.
    fn registry(&self, report: &mut Report) -> Result<()> {
        let (local, remote) = ("oci:image:latest", self.world.image());
        let copy = ["copy", "--insecure-policy", "--quiet"];
        let push = [&copy[..], &[local, &remote]].concat();
        let pull = [&copy[..], &[&remote, "oci:pulled:latest"]].concat();

        let mut skopeo = self.world.command("skopeo");
        skopeo.args(&push).env("SSL_CERT_FILE", self.world.pki.ca());
        report.refused("push without Postern", skopeo, "authentication required")?;
        report.succeeds("push", self.under_postern("skopeo", &push))?;
        report.succeeds("pull", self.under_postern("skopeo", &pull))?;

        let layers = |folder: &str| self.uncompressed_layers(folder);
        ensure!(
            layers("image")? == layers("pulled")?,
            "the pulled image differs from the pushed one"
        );
        Ok(())
    }

    /// The digests of the layers' contents, which do not depend on compression.
    fn uncompressed_layers(&self, folder: &str) -> Result<serde_json::Value> {
        let mut skopeo = self.world.command("skopeo");
        skopeo.args(["inspect", "--config", &format!("oci:{folder}:latest")]);
        let config: serde_json::Value = serde_json::from_str(&stdout_of(skopeo)?)?;
        Ok(config["rootfs"]["diff_ids"].clone())
    }

    /// Clones a repository and pushes a commit.
    fn git(&self, report: &mut Report) -> Result<()> {
        let address = self.world.repository();
        let clone = ["clone", "--quiet", &address, "work"];
        let mut plain = self.world.command("git");
        plain.args(clone).env("GIT_SSL_CAINFO", self.world.pki.ca());
        report.refused("clone without Postern", plain, "Authentication failed")?;
        report.succeeds("clone", self.under_postern("git", &clone))?;

        self.world
            .files
            .write("work/NEWS", "Pushed without a credential.\n")?;
        for arguments in [
            &["add", "NEWS"][..],
            &["commit", "--quiet", "--message=News"],
        ] {
            let mut git = self.world.command("git");
            run_ok({
                git.args(["-C", "work"]).args(arguments);
                git
            })?;
        }
        let push = ["-C", "work", "push", "--quiet", "origin", "main"];
        report.succeeds("push of a commit", self.under_postern("git", &push))?;

        let mut log = git::command();
        log.arg("-C")
            .arg(self.world.server_side_repository())
            .args(["log", "-1", "--format=%s"]);
        ensure!(stdout_of(log)? == "News", "the commit did not arrive");
        self.server_saw(
            "/demo.git/git-receive-pack",
            &self.world.secrets.git_authorization(),
        )
    }

    /// Asks an API.
    fn api(&self, report: &mut Report) -> Result<()> {
        let address = self.world.api();
        let ask = ["--silent", "--show-error", "--fail", &address];
        let mut plain = self.world.command("curl");
        plain.args(ask).arg("--cacert").arg(self.world.pki.ca());
        report.refused("API without Postern", plain, "401")?;

        let command = self.under_postern("curl", &ask);
        let shown = describe(&command);
        let output = run_within(command, COMMAND_LIMIT)?;
        let got = String::from_utf8_lossy(&output.stdout).into_owned();
        if got != ANSWER {
            bail!("{shown}: {got}{}", String::from_utf8_lossy(&output.stderr));
        }
        report.add("API", &shown, ANSWER, &got);
        self.server_saw("/hello", &self.world.secrets.api_authorization())
    }

    /// Looks at maps and processes while a command runs, and that nothing is left after it.
    fn proof(&self, report: &mut Report) -> Result<()> {
        let (mut postern, shown) = self.long_command()?;
        // Whatever goes wrong, the command is stopped.
        let looked = self.look_at(postern.id(), &shown, report);
        let ended = stop(&mut postern);
        let maps = looked?;
        ended.context("postern run cannot be stopped")?;

        // The kernel frees what nobody uses a moment later.
        for _ in 0..500 {
            if maps.iter().all(|map| maps::is_gone(map.id)) {
                report.add(
                    "after the command",
                    "bpftool map show",
                    "no map left",
                    "no map left",
                );
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("maps are left after `postern run` has ended")
    }

    /// A command that used a Connector and still has a connection to it.
    fn long_command(&self) -> Result<(Child, String)> {
        let (address, port) = (self.world.api(), self.world.api_address().port());
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; curl --silent --fail --output answer {address} \
             && echo ready; exec sleep 600"
        );
        let command = self.under_postern("bash", &["-c", &script]);
        let log = self.world.files.join("long-command.log");
        let errors = fs::File::create(&log).context("cannot write a log file")?;
        let mut child = spawn(&command, |command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(errors);
        })?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            // Ends when the command does, which the script makes sure of, or with its first line.
            BufReader::new(output)
                .read_line(&mut line)
                .context("cannot read from a command")?;
        }
        if line != "ready\n" {
            stop(&mut child)?;
            let log = fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "{}: the API did not answer\n{}",
                describe(&command),
                log.trim()
            );
        }
        Ok((
            child,
            "postern run -f connectors.yaml -- bash -c 'curl …; sleep 600'".to_owned(),
        ))
    }

    fn look_at(&self, postern: u32, shown: &str, report: &mut Report) -> Result<Vec<Map>> {
        let maps = maps::of_process(postern)?;
        maps::show(&maps, &maps::SHOWN)?;
        let needles = self.world.secrets.needles();
        let address = [127, 0, 0, 1];
        let got = leaks::check_maps(&maps, &needles, &address)?;
        report.add("secrets in maps", "bpftool map dump", "none", &got);
        let got = leaks::check_processes(postern, &needles, "sleep")?;
        report.add("secrets in /proc", shown, "none", &got);
        Ok(maps)
    }

    fn under_postern(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.world.command(&self.postern);
        command
            .args(["run", "-f", "connectors.yaml", "--", program])
            .args(arguments);
        command
    }

    /// The server's own log shows who was there: the credential came from Postern.
    fn server_saw(&self, uri: &str, authorization: &str) -> Result<()> {
        let requests = self.world.sites.requests_after(1)?;
        let accepted = requests
            .iter()
            .find(|seen| seen.uri == uri && seen.status == 200);
        let accepted =
            accepted.with_context(|| format!("the server answered no request for {uri}"))?;
        ensure!(
            accepted.authorization.as_deref() == Some(authorization),
            "the server accepted {uri} without the Connector's credential"
        );
        Ok(())
    }
}
