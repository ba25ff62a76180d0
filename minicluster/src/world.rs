//! The cluster, and everything around it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use fake_apiserver::{Handle, Identity, Options, Server, Token};
use mininode::{CgroupLayout, Image, Kubelet, Node};
use serde_json::Value;
use testkit::{Pki, Registry, RegistryAuth, RegistryOptions, SandboxOptions, TempDir, oci};

use crate::kubectl::{self, Kubectl};
use crate::postern::Process;
use crate::programs::Programs;
use crate::wait;

/// The registry's name, at port 443 of [`REGISTRY_ADDRESS`].
pub const REGISTRY: &str = "registry.example.com";
/// Another name of [`REGISTRY_ADDRESS`].
pub const SECOND: &str = "second.example.com";
/// The registry's address, for documentation (RFC 5737).
pub const REGISTRY_ADDRESS: &str = "192.0.2.10";

const NAMESPACE: &str = "postern-system";
const SERVICE: &str = "postern-controller.postern-system.svc";
/// The first user of the registry.
const USER: &str = "robot";

/// A cluster with one node, one registry, and Postern.
pub struct World {
    /// The controller, when it runs.
    pub controller: Option<Process>,
    /// The newest agent, when it runs.
    pub agent: Option<Process>,
    /// The node's kubelet.
    pub kubelet: Kubelet,
    /// The API server.
    pub api: Server,
    /// The registry.
    pub registry: Registry,
    /// The node.
    pub node: Node,
    /// The authority of the registry's certificate.
    pub pki: Pki,
    /// The registry's first password.
    pub password: String,
    /// Logs, tokens and whatever else a machine would have on its disk.
    pub files: TempDir,
    pub(crate) programs: Programs,
    pub(crate) agent_token: String,
    pub(crate) agents: Cell<u32>,
    admin: Kubectl,
    controller_kubectl: Kubectl,
}

impl World {
    /// Starts all but Postern: the API server has its manifests, the registry one user.
    pub async fn without_postern(programs: Programs) -> Result<Self> {
        Self::without_postern_on(programs, CgroupLayout::Cgroupfs).await
    }

    /// The same with pods in cgroups as a driver of the kubelet names them.
    pub async fn without_postern_on(programs: Programs, cgroups: CgroupLayout) -> Result<Self> {
        let files = TempDir::new("cluster")?;
        let pki = Pki::new()?;
        let address = REGISTRY_ADDRESS.parse().context("not an address")?;
        let network = SandboxOptions::default()
            .host(REGISTRY, address)
            .host(SECOND, address)
            .host(SERVICE, [127, 0, 0, 1].into());
        let node = Node::start(mininode::Options {
            network,
            cgroups,
            ..mininode::Options::default()
        })
        .await?;
        node.import(Image::client()?).await?;

        let password = random()?;
        let registry = Registry::start(
            Some(node.sandbox()),
            &RegistryOptions {
                address: Some((address, 443).into()),
                tls: Some(pki.server(&[REGISTRY])?),
                auth: RegistryAuth::Htpasswd {
                    user: USER.to_owned(),
                    password: password.clone(),
                },
            },
        )?;

        let (controller_token, agent_token) = (random()?, random()?);
        let options = Options {
            tls: true,
            enforce_rbac: true,
            tokens: vec![
                (controller_token.clone(), Token::new(controller())),
                (agent_token.clone(), agent(node.name())),
            ],
            ..Options::default()
        };
        let api = node.inside(Server::start(options)).await?;
        let kubelet = Kubelet::start(&node, &api.kubeconfig(None)).await?;
        let world = Self {
            controller: None,
            agent: None,
            kubelet,
            admin: Kubectl::new(&api.kubeconfig(None))?,
            controller_kubectl: Kubectl::new(&api.kubeconfig(Some(&controller_token)))?,
            api,
            registry,
            node,
            pki,
            password,
            files,
            programs,
            agent_token,
            agents: Cell::new(0),
        };
        oci::layout(&world.images().join("small"), &[100_000])?;
        fs::create_dir(world.registry_authority()).context("cannot make a folder")?;
        world
            .files
            .write("registry-authority/ca.crt", world.pki.ca_pem()?)?;
        world.install()?;
        Ok(world)
    }

    /// Starts everything.
    pub async fn start(programs: Programs) -> Result<Self> {
        let mut world = Self::without_postern(programs).await?;
        world.start_controller().await?;
        world.start_agent().await?;
        Ok(world)
    }

    /// What was observed at the API server, and what can be done to it.
    pub fn handle(&self) -> &Handle {
        self.api.handle()
    }

    /// Runs kubectl as an administrator and returns what it wrote.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = self.node.command("kubectl");
        kubectl::output(self.admin.complete(kubectl, arguments))
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let kubectl = self.node.command("kubectl");
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        kubectl::feed(self.admin.complete(kubectl, &arguments), manifests)
    }

    /// The registry's user of the beginning.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// Waits until a condition of the Connector `registry` is as expected, and returns it.
    pub async fn condition(&self, namespace: &str, kind: &str, status: &str) -> Result<Value> {
        let what = format!("condition {kind}={status} of {namespace}/registry");
        wait::until(&what, async || {
            let found = self.handle().object(
                "connectors.postern.dev/v1alpha1",
                "connectors",
                namespace,
                "registry",
            );
            let object = found.map_err(|error| anyhow!("{error:?}"))?;
            let conditions = object["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.unwrap_or_default().into_iter();
            Ok(conditions.find(|it| it["type"] == kind && it["status"] == status))
        })
        .await
    }

    /// Where images lie that pods push.
    pub fn images(&self) -> PathBuf {
        self.files.join("images")
    }

    /// Where programs and maps of this node are pinned.
    pub fn pins(&self) -> PathBuf {
        let name = self.files.path().file_name().unwrap_or_default();
        Path::new("/sys/fs/bpf").join(name)
    }

    pub(crate) fn registry_authority(&self) -> PathBuf {
        self.files.join("registry-authority")
    }

    pub(crate) fn controller_kubeconfig(&self) -> &Path {
        self.controller_kubectl.kubeconfig()
    }

    /// Waits for the controller's authority, and puts it where the agents expect it.
    pub(crate) async fn write_controller_ca(&self) -> Result<()> {
        let pem = wait::until("the ConfigMap postern-ca", async || {
            let object = self
                .handle()
                .object("v1", "configmaps", NAMESPACE, "postern-ca");
            let text = object
                .ok()
                .and_then(|it| it["data"]["ca.crt"].as_str().map(str::to_owned));
            Ok(text)
        })
        .await?;
        self.files.write("controller-ca.crt", pem).map(drop)
    }

    /// Applies the manifests that users apply.
    fn install(&self) -> Result<()> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        let crds = manifests.join("crds");
        for folder in [&crds, &manifests] {
            let folder = folder.display().to_string();
            self.kubectl(&["apply", "--server-side", "-k", &folder])?;
            if folder.ends_with("crds") {
                self.kubectl(&[
                    "wait",
                    "--for=condition=Established",
                    "crd/connectors.connectors.postern.dev",
                    "crd/connectorclasses.connectors.postern.dev",
                ])?;
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent = None;
        self.controller = None;
        // The agent leaves them for its successor, which there is none of.
        if self.pins().exists() {
            let _ = self.unload();
        }
    }
}

fn controller() -> Identity {
    Identity::service_account(NAMESPACE, "postern-controller")
}

/// The token that the kubelet would project into the agent's pod.
fn agent(node: &str) -> Token {
    let identity = Identity::service_account(NAMESPACE, "postern-agent").bound_to(
        "postern-agent-x",
        "00000000-0000-4000-8000-000000000001",
        node,
    );
    Token::with_audiences(identity, &["postern-controller"])
}

/// Text that nobody can guess and that occurs nowhere by chance.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0; 18];
    std::io::Read::read_exact(
        &mut fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?,
        &mut bytes,
    )
    .context("cannot read /dev/urandom")?;
    Ok(testkit::base64::encode_url(bytes))
}
