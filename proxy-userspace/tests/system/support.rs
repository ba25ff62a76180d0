//! A small world for each test: a network of its own with servers, and `postern` in it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use testkit::{
    Certificate, Content, Nginx, Pki, Registry, RegistryAuth, RegistryOptions, Sandbox,
    SandboxOptions, Server, Site, SiteAuth, TempDir,
};

pub(crate) const USER: &str = "ada";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const TOKEN: &str = "t0ken-that-nobody-may-see";

/// Address of every server that a test does not place elsewhere.
pub(crate) const ADDRESS: &str = "192.0.2.10";

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) pki: Pki,
    pub(crate) files: TempDir,
}

impl World {
    /// A world in which these names are all at [`ADDRESS`].
    pub(crate) fn new(names: &[&str]) -> Result<Self> {
        let address: IpAddr = ADDRESS.parse()?;
        let options = names
            .iter()
            .fold(SandboxOptions::default(), |options, name| {
                options.host(name, address)
            });
        Self::with(&options)
    }

    pub(crate) fn with(options: &SandboxOptions) -> Result<Self> {
        Ok(Self {
            sandbox: Sandbox::new(options)?,
            pki: Pki::new()?,
            files: TempDir::new("system")?,
        })
    }

    pub(crate) fn certificate(&self, names: &[&str]) -> Result<Certificate> {
        self.pki.server(names)
    }

    /// A registry with the usual account and TLS.
    pub(crate) fn registry(&self, name: &str, port: u16) -> Result<Registry> {
        Registry::start(
            Some(&self.sandbox),
            &RegistryOptions {
                address: Some(at(port)?),
                tls: Some(self.certificate(&[name])?),
                auth: RegistryAuth::Htpasswd {
                    user: USER.into(),
                    password: PASSWORD.into(),
                },
            },
        )
    }

    pub(crate) fn nginx(&self, sites: &[Site]) -> Result<Nginx> {
        Nginx::start(Some(&self.sandbox), sites)
    }

    /// haproxy at [`ADDRESS`] as an API that asks for the usual token; `options` are those of its
    /// `bind`.
    pub(crate) fn haproxy(&self, port: u16, options: &str) -> Result<Server> {
        let config = format!(
            "global\n  maxconn 4000\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend api\n  bind {ADDRESS}:{port} {options}\n  \
               http-request return status 401 content-type text/plain string no \
                 unless {{ req.hdr(authorization) -m str \"Bearer {TOKEN}\" }}\n  \
               http-request return status 200 content-type text/plain string yes\n"
        );
        let config = self.files.write("haproxy.cfg", config)?;
        let mut command = self.sandbox.command("haproxy");
        command.arg("-db").arg("-f").arg(config);
        Server::listening(&command, &self.files.join("haproxy.log"), port)
    }

    /// A site with TLS at [`ADDRESS`].
    pub(crate) fn site(
        &self,
        name: &str,
        port: u16,
        auth: SiteAuth,
        content: Content,
    ) -> Result<Site> {
        Ok(Site {
            name: name.into(),
            address: at(port)?,
            tls: Some(self.certificate(&[name])?),
            auth,
            content,
        })
    }

    /// Writes a manifest with the CA of the test's servers as Secret `ca`.
    pub(crate) fn manifest(&self, documents: &[String]) -> Result<PathBuf> {
        let mut all = documents.to_vec();
        let pem = self.pki.ca_pem()?;
        all.push(secret("ca", "Opaque", &[("ca.crt", &pem)]));
        self.files.write("connectors.yaml", all.join("---\n"))
    }

    /// `postern` inside, with no log unless something is wrong.
    pub(crate) fn postern(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(env!("CARGO_BIN_EXE_postern"));
        command.args(arguments);
        command
    }

    /// `postern run` of a command with a manifest.
    pub(crate) fn run(&self, manifest: &PathBuf, command: &[&str]) -> Command {
        self.run_with(manifest, &[], command)
    }

    pub(crate) fn run_with(
        &self,
        manifest: &PathBuf,
        options: &[&str],
        command: &[&str],
    ) -> Command {
        let mut run = self.postern(&["run"]);
        run.arg("-f")
            .arg(manifest)
            .args(options)
            .arg("--")
            .args(command);
        run
    }

    /// `skopeo copy` under Postern, holding no credential of its own.
    pub(crate) fn skopeo_copy(&self, manifest: &PathBuf, from: &str, to: &str) -> Result<Command> {
        let nobody = self.files.write("auth.json", "{}")?;
        let nobody = nobody
            .to_str()
            .context("a path that is no text")?
            .to_owned();
        Ok(self.run(
            manifest,
            &[
                "skopeo",
                "copy",
                "--insecure-policy",
                "--quiet",
                "--authfile",
                &nobody,
                from,
                to,
            ],
        ))
    }
}

/// A world with one JSON API at `api.test` and a Connector to it with the usual token.
pub(crate) fn api(auth: SiteAuth) -> Result<(World, Nginx, PathBuf)> {
    let world = World::new(&["api.test"])?;
    let site = world.site("api.test", 443, auth, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&bearer("api", "https://api.test"))?;
    Ok((world, nginx, manifest))
}

pub(crate) fn at(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ADDRESS.parse()?, port))
}

/// A Connector that trusts the test's CA.
pub(crate) fn connector(name: &str, class: &str, address: &str, auth: &str) -> String {
    format!(
        "apiVersion: connectors.postern.dev/v1alpha1\n\
         kind: Connector\n\
         metadata:\n  name: {name}\n\
         spec:\n  connectorClassName: {class}\n  address: {address}\n  \
           caCertSecretRef:\n    name: ca\n  \
           auth:\n    name: {auth}\n    secretRef:\n      name: {name}\n"
    )
}

pub(crate) fn secret(name: &str, kind: &str, values: &[(&str, &str)]) -> String {
    let data: Vec<_> = values
        .iter()
        .map(|(key, value)| format!("  {key}: {}\n", testkit::base64::encode(value)))
        .collect();
    let data = data.concat();
    format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: {kind}\ndata:\n{data}")
}

/// A Connector of a Basic class with the usual account.
pub(crate) fn basic(name: &str, class: &str, address: &str) -> [String; 2] {
    let values = [("username", USER), ("password", PASSWORD)];
    [
        connector(name, class, address, "basicAuth"),
        secret(name, "kubernetes.io/basic-auth", &values),
    ]
}

/// A Connector of class `oci` with the usual account.
pub(crate) fn oci(name: &str, address: &str) -> [String; 2] {
    let values = [("username", USER), ("password", PASSWORD)];
    [
        connector(name, "oci", address, "tokenAuth"),
        secret(name, "cpaas.io/distribution-registry-token", &values),
    ]
}

/// A Connector of class `generic-bearer` with the usual token.
pub(crate) fn bearer(name: &str, address: &str) -> [String; 2] {
    [
        connector(name, "generic-bearer", address, "bearerTokenAuth"),
        secret(
            name,
            "connectors.cpaas.io/bearer-token",
            &[("token", TOKEN)],
        ),
    ]
}

/// What nginx sees of the usual account.
pub(crate) fn basic_header() -> String {
    format!(
        "Basic {}",
        testkit::base64::encode(format!("{USER}:{PASSWORD}"))
    )
}

pub(crate) fn output(mut command: Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", testkit::command::describe(&command)))
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Runs a command that has to succeed and returns what it wrote.
pub(crate) fn ok(command: Command) -> Result<Output> {
    let output = output(command)?;
    ensure!(
        output.status.success(),
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        stdout(&output),
        stderr(&output)
    );
    Ok(output)
}

/// One of the numbers that `postern run --stats` prints.
pub(crate) fn counter(output: &Output, name: &str) -> Result<u64> {
    let text = stderr(output);
    let (_, rest) = text
        .split_once(&format!("{name}="))
        .with_context(|| format!("no counter {name} in: {text}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().context("a counter that is no number")
}
