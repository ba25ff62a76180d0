//! An API server with what a cluster has before the first Connector, and a controller.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake_apiserver::{Entry, Handle, Identity, Options, Server, Token};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use postern_controller::cluster::{self, Limits};
use postern_controller::health;
use postern_controller::nodes::{Known, Nodes};
use proxy_common::api::cluster::definitions;
use proxy_common::distribution::NodeUpdate;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::objects;

/// How long a test waits for what has to come.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
pub(crate) const TOKEN: &str = "token-of-the-controller";
const ADMIN: &str = "token-of-the-administrator";
const USER: &str = "system:serviceaccount:postern-system:postern-controller";

/// A cluster.
pub(crate) struct World {
    pub(crate) server: Server,
    admin: Client,
}

impl World {
    /// With the kinds of the manifests, and the controller's roles.
    pub(crate) async fn new() -> Self {
        let world = Self::without_kinds().await;
        world.define_kinds(|_| {});
        world
    }

    /// With the controller's roles only.
    pub(crate) async fn without_kinds() -> Self {
        let account = Identity::service_account("postern-system", "postern-controller");
        let options = Options {
            tls: true,
            anonymous: None,
            enforce_rbac: true,
            tokens: vec![
                (TOKEN.to_owned(), Token::new(account)),
                (ADMIN.to_owned(), Token::new(Identity::admin())),
            ],
            ..Options::default()
        };
        let server = Server::start(options).await.expect("a server");
        let world = Self {
            admin: client(&server, ADMIN).await,
            server,
        };
        for namespace in ["postern-system", "team", "other"] {
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}
            });
            world.put(object).await;
            let metadata = json!({"namespace": namespace, "name": "builder"});
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata
            });
            world.put(account).await;
        }
        let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/rbac/controller.yaml");
        let roles = std::fs::read_to_string(roles).expect("the manifest");
        let roles: Vec<Value> = serde_saphyr::from_multiple(&roles).expect("YAML");
        for object in roles {
            world.put(object).await;
        }
        world
    }

    /// Defines the kinds, after a change of the first version of that of Connectors.
    pub(crate) fn define_kinds(&self, change: impl Fn(&mut Value)) {
        for definition in definitions() {
            let mut object = serde_json::to_value(definition).expect("JSON");
            if object["spec"]["names"]["kind"] == "Connector" {
                change(&mut object["spec"]["versions"][0]);
            }
            let api = "apiextensions.k8s.io/v1";
            let created = self
                .handle()
                .create(api, "customresourcedefinitions", "", object);
            created.expect("a definition");
        }
    }

    /// A class, a Secret, the Connector `api`, a pod on `node-1` that may use it.
    pub(crate) async fn with_connector() -> Self {
        let world = Self::new().await;
        for object in [
            objects::class(),
            objects::secret("login", "hunter2"),
            objects::role(&[]),
            objects::binding(),
            objects::pod("team", "a", "node-1"),
            objects::connector("api", "login"),
        ] {
            world.put(object).await;
        }
        world
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.server.handle()
    }

    /// Starts a controller.
    pub(crate) async fn start(&self) -> Controller {
        self.start_with(Arc::default()).await
    }

    /// Starts a controller for nodes that somebody may be listening for.
    pub(crate) async fn start_with(&self, nodes: Arc<Nodes>) -> Controller {
        let client = client(&self.server, TOKEN).await;
        let (pulse, pings) = health::pulse();
        let limits = Limits {
            qps: 1000.try_into().expect("not zero"),
            burst: 1000.try_into().expect("not zero"),
        };
        let told = Arc::clone(&nodes);
        let task = tokio::spawn(async move {
            let ended = cluster::run(client, told, limits, pings).await;
            panic!("it ended: {ended:?}");
        });
        Controller { nodes, pulse, task }
    }

    /// Applies an object as an administrator.
    pub(crate) async fn put(&self, mut object: Value) {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().expect("a name").to_owned();
        let namespace = metadata["namespace"].as_str().map(str::to_owned);
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        if kind == "Secret" {
            // It replaces the values, as an update does.
            object["metadata"]["labels"] = json!({"applied": "by-a-test"});
        }
        let params = PatchParams::apply("test").force();
        let patch = Patch::Apply(object);
        let api = self.api(&kind, namespace.as_deref());
        let applied = api.patch(&name, &params, &patch);
        applied
            .await
            .unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// Deletes an object of namespace `team`, or a cluster-wide one, at once.
    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let params = DeleteParams::default().grace_period(0);
        let namespace = (kind != "ConnectorClass").then_some("team");
        let deleted = self.api(kind, namespace).delete(name, &params).await;
        deleted.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// Sets the phase of a pod of namespace `team`.
    pub(crate) async fn set_phase(&self, pod: &str, phase: &str) {
        let patch = Patch::Merge(json!({"status": {"phase": phase}}));
        let pods = self.api("Pod", Some("team"));
        let params = PatchParams::default();
        let patched = pods.patch_status(pod, &params, &patch).await;
        patched.expect("patched");
    }

    /// Changes the status of a Connector of namespace `team`.
    pub(crate) async fn spoil_status(&self, name: &str) {
        let patch = Patch::Merge(json!({"status": {"conditions": []}}));
        let connectors = self.api("Connector", Some("team"));
        let params = PatchParams::default();
        let patched = connectors.patch_status(name, &params, &patch).await;
        patched.expect("patched");
    }

    fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version, plural) = match kind {
            "Namespace" => ("", "v1", "namespaces"),
            "Pod" => ("", "v1", "pods"),
            "Secret" => ("", "v1", "secrets"),
            "ServiceAccount" => ("", "v1", "serviceaccounts"),
            "Connector" => ("connectors.postern.dev", "v1alpha1", "connectors"),
            "ConnectorClass" => ("connectors.postern.dev", "v1alpha1", "connectorclasses"),
            "Role" => ("rbac.authorization.k8s.io", "v1", "roles"),
            "RoleBinding" => ("rbac.authorization.k8s.io", "v1", "rolebindings"),
            "ClusterRole" => ("rbac.authorization.k8s.io", "v1", "clusterroles"),
            "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
            other => panic!("{other} is new here"),
        };
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        }
    }

    /// A Connector of namespace `team` as it is stored.
    pub(crate) fn connector(&self, name: &str) -> Value {
        let api = "connectors.postern.dev/v1alpha1";
        let object = self.handle().object(api, "connectors", "team", name);
        object.expect("a Connector")
    }

    /// Status, reason and message of a condition of a Connector, parted by bars.
    pub(crate) fn condition(&self, connector: &str, type_: &str) -> String {
        let object = self.connector(connector);
        let conditions = object["status"]["conditions"].as_array();
        let condition = conditions
            .into_iter()
            .flatten()
            .find(|it| it["type"] == type_);
        let text = |field: &str| {
            let text = condition.and_then(|it| it[field].as_str());
            text.unwrap_or_default().to_owned()
        };
        [text("status"), text("reason"), text("message")].join("|")
    }

    /// Waits until a condition of the Connector `api` is this.
    pub(crate) async fn wait_for_condition(&self, type_: &str, expected: &str) {
        let seen = || self.condition("api", type_);
        wait_until(|| seen() == expected, || format!("{type_}: {}", seen())).await;
    }

    /// The controller's requests that changed objects.
    pub(crate) fn writes(&self) -> Vec<Entry> {
        let writes = self.handle().writes().into_iter();
        writes.filter(|it| it.user == USER).collect()
    }

    /// The controller's requests.
    pub(crate) fn requests(&self) -> Vec<Entry> {
        let requests = self.handle().requests().into_iter();
        requests.filter(|it| it.user == USER).collect()
    }

    /// Waits until a controller has done whatever it does about what has happened so far:
    /// what happens now is done as well.
    pub(crate) async fn wait_for_calm(&self, controller: &Controller, mark: &str) {
        for round in ["1", "2"] {
            let name = format!("mark-{mark}-{round}");
            self.put(objects::pod("team", &name, &name)).await;
            let mut node = controller.node(&name);
            node.wait_for("the mark", |update| update.workloads.len() == 1)
                .await;
        }
    }
}

async fn client(server: &Server, token: &str) -> Client {
    let config = Kubeconfig::from_yaml(&server.kubeconfig(Some(token))).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

/// A controller that runs in this process; it ends when the value is dropped.
pub(crate) struct Controller {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) pulse: health::Pulse,
    task: JoinHandle<()>,
}

impl Controller {
    /// What the agent of a node is told.
    pub(crate) fn node(&self, name: &str) -> Agent {
        Agent(self.nodes.subscribe(name))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one node is told.
pub(crate) struct Agent(pub(crate) watch::Receiver<Known>);

impl Agent {
    /// The whole state; `None` as long as it is not known.
    pub(crate) fn state(&mut self) -> Option<NodeUpdate> {
        self.0.borrow_and_update().as_ref().map(|it| it.full(1))
    }

    /// Waits for a state.
    pub(crate) async fn wait_for(
        &mut self,
        what: &str,
        is_it: impl Fn(&NodeUpdate) -> bool,
    ) -> NodeUpdate {
        let awaited = async {
            loop {
                match self.state() {
                    Some(state) if is_it(&state) => return state,
                    _ => self.0.changed().await.expect("the sender lives"),
                }
            }
        };
        if let Ok(state) = tokio::time::timeout(LIMIT, awaited).await {
            return state;
        }
        let state = self.state().map(|it| {
            let pods: Vec<String> = it.workloads.iter().map(|it| it.name.clone()).collect();
            let usable: Vec<String> = usable(&it).into_iter().map(str::to_owned).collect();
            (it.connectors.len(), usable, pods)
        });
        panic!("{what}: {state:?}");
    }

    /// Waits until the node has these usable Connectors.
    pub(crate) async fn wait_for_usable(&mut self, names: &[&str]) -> NodeUpdate {
        let what = format!("usable are {names:?}");
        self.wait_for(&what, |update| usable(update) == names).await
    }
}

/// Names of the Connectors that can be used.
pub(crate) fn usable(update: &NodeUpdate) -> Vec<&str> {
    let connectors = update.connectors.iter();
    let mut names: Vec<&str> = connectors
        .filter(|it| it.usable && it.credential.is_some())
        .map(|it| it.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

/// Waits for what has to come.
pub(crate) async fn wait_until(is_it: impl Fn() -> bool, what: impl Fn() -> String) {
    let awaited = async {
        while !is_it() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::time::timeout(LIMIT, awaited).await.is_ok();
    assert!(came, "{}", what());
}
