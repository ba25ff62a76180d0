//! A cluster, a controller in it, and agents.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use connectors::{BASIC_AUTH, SecretData};
use fake_apiserver::{API_AUDIENCE, Identity, Options, Server, Token};
use kube::config::AuthInfo;
use kube::{Client, Config};
use postern_controller::authority::{
    Authority, BUNDLE, BUNDLE_KEY, ServerCertificate, write_bundle,
};
use postern_controller::distribution::{self, AUDIENCE, Service};
use postern_controller::grants::{Pod, Review};
use postern_controller::model::{HeldSecret, Key, Model};
use postern_controller::nodes::Nodes;
use proxy_common::api::API_VERSION;
use proxy_common::distribution::agent_message::Kind;
use proxy_common::distribution::distribution_client::DistributionClient;
use proxy_common::distribution::{Acknowledge, AgentMessage, Hello, NodeUpdate};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::logs;

pub(crate) const NAMESPACE: &str = "postern-system";
/// What pods are granted; in no log.
pub(crate) const PASSWORD: &str = "hunter2-of-the-team";
pub(crate) const TOKEN: &str = "token-of-node-1";
/// Of somebody who may do everything.
pub(crate) const ADMIN_TOKEN: &str = "token-of-an-administrator";
const CONTROLLER_TOKEN: &str = "token-of-the-controller";
const NOW: &str = "2026-01-01T00:00:00Z";
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LIMIT: Duration = Duration::from_mins(1);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("it takes too long")
}

/// The cluster; the controller has the roles of the manifests and no more.
pub(crate) struct World {
    pub(crate) api: Server,
    pub(crate) client: Client,
    pub(crate) nodes: Arc<Nodes>,
    model: Mutex<Model>,
}

impl World {
    pub(crate) async fn new() -> Self {
        logs::start();
        let controller = Identity::service_account(NAMESPACE, "postern-controller");
        let options = Options {
            tokens: vec![
                (CONTROLLER_TOKEN.to_owned(), Token::new(controller)),
                (TOKEN.to_owned(), agent_token("node-1")),
                (ADMIN_TOKEN.to_owned(), Token::new(Identity::admin())),
            ],
            anonymous: None,
            enforce_rbac: true,
            ..Options::default()
        };
        let api = Server::start(options).await.unwrap();
        for namespace in [NAMESPACE, "team"] {
            let object = json!({"metadata": {"name": namespace}});
            let object = with(object, "v1", "Namespace");
            api.handle().create("v1", "namespaces", "", object).unwrap();
        }
        apply_roles(&api);
        Self {
            client: client(&api, CONTROLLER_TOKEN),
            api,
            nodes: Arc::default(),
            model: Mutex::new(model()),
        }
    }

    /// Of somebody who may do everything.
    pub(crate) fn admin(&self) -> Client {
        client(&self.api, ADMIN_TOKEN)
    }

    pub(crate) async fn authority(&self) -> Arc<Authority> {
        let authority = soon(Authority::load_or_create(&self.client, NAMESPACE)).await;
        Arc::new(authority.unwrap())
    }

    /// A controller that knows the cluster, on a free port.
    pub(crate) async fn controller(&self) -> Controller {
        self.controller_with(|service| service).await
    }

    /// The same with other settings.
    pub(crate) async fn controller_with(
        &self,
        settings: impl FnOnce(Service) -> Service,
    ) -> Controller {
        self.publish();
        self.nodes.complete();
        self.controller_at(FREE, settings).await
    }

    /// A controller that does not know the cluster yet.
    pub(crate) async fn ignorant_controller(&self) -> Controller {
        self.controller_at(FREE, |service| service).await
    }

    pub(crate) async fn controller_at(
        &self,
        address: SocketAddr,
        settings: impl FnOnce(Service) -> Service,
    ) -> Controller {
        let authority = self.authority().await;
        write_bundle(&authority, &self.client, NAMESPACE)
            .await
            .unwrap();
        let certificate = authority.server_certificate().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let nodes = Arc::clone(&self.nodes);
        let service = settings(Service::new(
            self.client.clone(),
            authority,
            nodes,
            AUDIENCE,
        ));
        let tls = certificate.tls_config().unwrap();
        let task = tokio::spawn(distribution::serve(listener, tls, service, async {
            drop(stopped.await);
        }));
        Controller {
            address,
            certificate,
            stop,
            task,
        }
    }

    /// Changes what the controller knows and tells the streams of `node-1`.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.model.lock().unwrap());
        self.publish();
    }

    pub(crate) fn rotate(&self, password: &str, version: &str) {
        self.change(|model| {
            model.upsert_secret(Key::new("team", "login"), held(password, version), NOW);
        });
    }

    fn publish(&self) {
        let state = self.model.lock().unwrap().evaluate("node-1").0;
        self.nodes.publish("node-1", Arc::new(state));
    }

    /// The root as agents find it.
    pub(crate) fn bundle(&self, namespace: &str) -> String {
        let map = self
            .api
            .handle()
            .object("v1", "configmaps", namespace, BUNDLE);
        map.unwrap()["data"][BUNDLE_KEY]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn token(&self, token: &str, identity: Identity, audience: &str) {
        let meaning = Token::with_audiences(identity, &[audience]);
        self.api.handle().add_token(token, meaning);
    }

    /// How often this was asked for.
    pub(crate) fn count(&self, verb: &str, resource: &str) -> usize {
        let requests = self.api.handle().requests();
        let wanted = requests
            .iter()
            .filter(|it| it.verb == verb && it.resource == resource);
        wanted.count()
    }
}

/// A running controller.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: Arc<ServerCertificate>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), distribution::ServeError>>,
}

impl Controller {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.task).await.unwrap().unwrap();
    }

    /// A channel that trusts this root only.
    pub(crate) fn channel(&self, root: &str) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(root))
            .domain_name(format!("postern-controller.{NAMESPACE}.svc"));
        Endpoint::from_shared(format!("https://{}", self.address))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy()
    }

    pub(crate) fn agent(&self, world: &World) -> DistributionClient<Channel> {
        DistributionClient::new(self.channel(&world.bundle(NAMESPACE)))
    }
}

/// An agent's side of a stream.
pub(crate) struct Stream {
    pub(crate) outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<NodeUpdate>,
}

impl Stream {
    /// Calls without having said anything.
    pub(crate) async fn open(
        client: &mut DistributionClient<Channel>,
        token: Option<&str>,
    ) -> Result<Self, Status> {
        let (outgoing, messages) = mpsc::channel(8);
        let request = authorized(ReceiverStream::new(messages), token);
        let incoming = soon(client.subscribe(request)).await?.into_inner();
        Ok(Self { outgoing, incoming })
    }

    /// The stream of `node-1`, after its Hello.
    pub(crate) async fn subscribed(client: &mut DistributionClient<Channel>) -> Self {
        let stream = Self::open(client, Some(TOKEN)).await.unwrap();
        stream.hello("node-1").await;
        stream
    }

    pub(crate) async fn hello(&self, node: &str) {
        let hello = Hello {
            node: node.to_owned(),
            agent_version: "1.2.3".to_owned(),
        };
        self.say(Kind::Hello(hello)).await;
    }

    pub(crate) async fn acknowledge(&self, version: u64, error: &str) {
        let error = error.to_owned();
        self.say(Kind::Acknowledge(Acknowledge { version, error }))
            .await;
    }

    async fn say(&self, kind: Kind) {
        let message = AgentMessage { kind: Some(kind) };
        assert!(self.outgoing.send(message).await.is_ok());
    }

    pub(crate) async fn next(&mut self) -> NodeUpdate {
        let update = soon(self.incoming.message()).await.unwrap();
        update.expect("the stream has not ended")
    }

    /// The next update, which is acknowledged.
    pub(crate) async fn take(&mut self) -> NodeUpdate {
        let update = self.next().await;
        self.acknowledge(update.version, "").await;
        update
    }

    /// The status with which the stream ends; no update comes before it.
    pub(crate) async fn end(&mut self) -> Status {
        match soon(self.incoming.message()).await {
            Ok(Some(_)) => panic!("an update was sent"),
            Ok(None) => Status::ok(""),
            Err(status) => status,
        }
    }
}

/// The code of a call that has to fail.
pub(crate) fn code<T>(result: Result<T, Status>) -> Code {
    result.err().expect("a refusal").code()
}

pub(crate) fn authorized<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

pub(crate) fn agent(node: &str) -> Identity {
    Identity::service_account(NAMESPACE, "postern-agent").bound_to("agent", "uid", node)
}

fn agent_token(node: &str) -> Token {
    assert_ne!(AUDIENCE, API_AUDIENCE);
    Token::with_audiences(agent(node), &[AUDIENCE])
}

/// A token as an API server makes them, but for its signature.
pub(crate) fn jwt(audience: &str, account: &str, end: SystemTime) -> String {
    let end = end
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "aud": [audience],
        "sub": format!("system:serviceaccount:{NAMESPACE}:{account}"),
        "exp": end,
    });
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{payload}.c2lnbmF0dXJl")
}

/// The password in an update's only Connector.
pub(crate) fn password(update: &NodeUpdate) -> Option<&str> {
    use proxy_common::distribution::credential::Kind;
    assert_eq!(update.connectors.len(), 1);
    let credential = update.connectors[0].credential.as_ref()?;
    match credential.kind.as_ref()? {
        Kind::Basic(basic) => Some(&basic.password),
        Kind::Bearer(_) | Kind::IdentityToken(_) | Kind::Generated(_) | Kind::Certificate(_) => {
            None
        }
    }
}

fn with(mut object: Value, api_version: &str, kind: &str) -> Value {
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object
}

fn client(api: &Server, token: &str) -> Client {
    let mut config = Config::new(api.url().parse().unwrap());
    config.auth_info = AuthInfo {
        token: Some(token.to_owned().into()),
        ..AuthInfo::default()
    };
    Client::try_from(config).unwrap()
}

/// The roles of the manifests.
fn apply_roles(api: &Server) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/rbac/controller.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        let kind = object["kind"].as_str().unwrap();
        let plural = format!("{}s", kind.to_lowercase());
        let api_version = object["apiVersion"].as_str().unwrap().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let namespace = namespace.to_owned();
        let created = api
            .handle()
            .create(&api_version, &plural, &namespace, object);
        created.unwrap();
    }
}

/// A Connector `api` of namespace `team` with its class and Secret, and a pod on `node-1`
/// that may use it.
fn model() -> Model {
    let mut model = Model::new().unwrap();
    let class = json!({
        "metadata": {"name": "basic"},
        "spec": {"auth": {"types": [{"name": "basicAuth", "secretType": BASIC_AUTH}]}},
    });
    let class = with(class, API_VERSION, "ConnectorClass");
    model.upsert_class(Arc::new(serde_json::from_value(class).unwrap()), NOW);
    let connector = json!({
        "metadata": {"namespace": "team", "name": "api", "uid": "uid of the connector"},
        "spec": {
            "connectorClassName": "basic",
            "address": "https://api.example.com",
            "auth": {"name": "basicAuth", "secretRef": {"name": "login"}},
        },
    });
    let connector = with(connector, API_VERSION, "Connector");
    model.upsert_connector(serde_json::from_value(connector).unwrap(), NOW);
    model.upsert_secret(Key::new("team", "login"), held(PASSWORD, "1"), NOW);
    let pod = Pod {
        uid: "uid of the pod".to_owned(),
        namespace: "team".to_owned(),
        name: "build".to_owned(),
        service_account: "builder".to_owned(),
        ips: Vec::new(),
        host_network: false,
    };
    model.upsert_pod("node-1", pod);
    let review = Review {
        namespace: "team".to_owned(),
        service_account: "builder".to_owned(),
        connector: None,
    };
    model.answer(review, true);
    model
}

fn held(password: &str, version: &str) -> HeldSecret {
    let values = [("username", "me"), ("password", password)]
        .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()));
    HeldSecret {
        data: SecretData::new("team", "login", Some(BASIC_AUTH.to_owned()), values),
        uid: "uid of the secret".to_owned(),
        resource_version: version.to_owned(),
    }
}
