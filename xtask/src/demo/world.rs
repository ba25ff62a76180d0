//! What the demo runs against: three servers that want credentials, and the manifests in
//! which Postern finds them.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use testkit::{
    Content, Nginx, Pki, Registry, RegistryAuth, RegistryOptions, Site, SiteAuth, TempDir, base64,
    free_port, git, oci,
};

/// The one user of the registry and of the git server.
const USER: &str = "demo";
/// What the API answers.
pub(super) const ANSWER: &str = r#"{"message": "hello from the API"}"#;

/// The servers, and a folder to work in; everything goes with the value.
pub(super) struct World {
    pub(super) files: TempDir,
    pub(super) pki: Pki,
    pub(super) registry: Registry,
    pub(super) sites: Nginx,
    pub(super) secrets: Secrets,
    git: SocketAddr,
    api: SocketAddr,
}

/// What must not leak, new with every run so that finding it proves something.
pub(super) struct Secrets {
    registry: String,
    git: String,
    api: String,
}

impl World {
    /// Starts everything on loopback, on ports that happen to be free.
    pub(super) fn start() -> Result<Self> {
        let files = TempDir::new("demo")?;
        let pki = Pki::new()?;
        let certificate = pki.server(&["localhost", "127.0.0.1", "::1"])?;
        let secrets = Secrets {
            registry: random()?,
            git: random()?,
            api: random()?,
        };

        let auth = RegistryAuth::Htpasswd {
            user: USER.to_owned(),
            password: secrets.registry.clone(),
        };
        let registry = Registry::start(
            None,
            &RegistryOptions {
                address: None,
                tls: Some(certificate.clone()),
                auth,
            },
        )?;

        let (git, api) = (loopback()?, loopback()?);
        git::bare_repository(&files.join("server/demo.git"))?;
        let site = |address, auth, content| Site {
            name: "localhost".to_owned(),
            address,
            tls: Some(certificate.clone()),
            auth,
            content,
        };
        let basic = SiteAuth::Basic {
            user: USER.to_owned(),
            password: secrets.git.clone(),
        };
        let sites = Nginx::start(
            None,
            &[
                site(git, basic, Content::Git(files.join("server"))),
                site(
                    api,
                    SiteAuth::Bearer(secrets.api.clone()),
                    Content::Json(ANSWER.to_owned()),
                ),
            ],
        )?;

        oci::layout(&files.join("image"), &[1 << 20, 3 << 20])?;
        fs::create_dir(files.join("home")).context("cannot create a home folder")?;
        let world = Self {
            files,
            pki,
            registry,
            sites,
            secrets,
            git,
            api,
        };
        world.files.write("connectors.yaml", world.manifests()?)?;
        Ok(world)
    }

    /// An address of the registry as skopeo writes it.
    pub(super) fn image(&self) -> String {
        format!(
            "docker://localhost:{}/demo/image:1",
            self.registry.address().port()
        )
    }

    /// The address of the repository.
    pub(super) fn repository(&self) -> String {
        format!("https://localhost:{}/demo.git", self.git.port())
    }

    /// The address of the API.
    pub(super) fn api(&self) -> String {
        format!("https://localhost:{}/hello", self.api.port())
    }

    /// Where the API listens.
    pub(super) fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// The folder in which the server keeps the repository.
    pub(super) fn server_side_repository(&self) -> std::path::PathBuf {
        self.files.join("server/demo.git")
    }

    /// A command in the working folder that finds no credential on this machine.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.files.path());
        git::isolate(&mut command);
        command.env("HOME", self.files.join("home"));
        for name in [
            "XDG_RUNTIME_DIR",
            "XDG_CONFIG_HOME",
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn manifests(&self) -> Result<String> {
        let authority = indented(&self.pki.ca_pem()?);
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: authority\ntype: Opaque\n\
             stringData:\n  ca.crt: |\n{authority}"
        );
        let basic = |password: &str| format!("  username: {USER}\n  password: {password}\n");
        let connectors = [
            Connector {
                name: "registry",
                class: "oci",
                address: self.registry.address(),
                auth: "tokenAuth",
                secret_type: "cpaas.io/distribution-registry-token",
                secret: basic(&self.secrets.registry),
                parameters: "",
            },
            Connector {
                name: "git",
                class: "git",
                address: self.git,
                auth: "basicAuth",
                secret_type: "kubernetes.io/basic-auth",
                secret: basic(&self.secrets.git),
                parameters: "    params:\n    - name: repository\n      value: demo.git\n",
            },
            Connector {
                name: "api",
                class: "generic-bearer",
                address: self.api,
                auth: "bearerTokenAuth",
                secret_type: "connectors.cpaas.io/bearer-token",
                secret: format!("  token: {}\n", self.secrets.api),
                parameters: "",
            },
        ];
        text.extend(connectors.iter().map(Connector::manifests));
        Ok(text)
    }
}

struct Connector {
    name: &'static str,
    class: &'static str,
    address: SocketAddr,
    auth: &'static str,
    secret_type: &'static str,
    secret: String,
    parameters: &'static str,
}

impl Connector {
    /// The Secret and the Connector.
    fn manifests(&self) -> String {
        let Self {
            name,
            class,
            auth,
            secret_type,
            secret,
            parameters,
            ..
        } = self;
        let port = self.address.port();
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: {secret_type}\n\
             stringData:\n{secret}\
             ---\napiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\n\
             metadata:\n  name: {name}\nspec:\n  connectorClassName: {class}\n\
             \x20 address: https://localhost:{port}\n  caCertSecretRef:\n    name: authority\n\
             \x20 auth:\n    name: {auth}\n    secretRef:\n      name: {name}\n{parameters}"
        )
    }
}

impl Secrets {
    /// Every form in which a secret could show up, with a name for it.
    pub(super) fn needles(&self) -> Vec<(String, String)> {
        let mut needles = Vec::new();
        for (owner, secret) in [
            ("registry", &self.registry),
            ("git", &self.git),
            ("api", &self.api),
        ] {
            needles.push((format!("the {owner}'s secret"), secret.clone()));
            needles.push((
                format!("the {owner}'s secret in base64"),
                base64::encode(secret),
            ));
            let basic = base64::encode(format!("{USER}:{secret}"));
            needles.push((format!("the {owner}'s Basic credential"), basic));
        }
        needles
    }

    /// The header that the git server wants.
    pub(super) fn git_authorization(&self) -> String {
        format!("Basic {}", base64::encode(format!("{USER}:{}", self.git)))
    }

    /// The header that the API wants.
    pub(super) fn api_authorization(&self) -> String {
        format!("Bearer {}", self.api)
    }
}

fn loopback() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

/// Text that nobody can guess and that occurs nowhere by chance.
fn random() -> Result<String> {
    let mut bytes = [0; 18];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(base64::encode_url(bytes))
}
