//! The program itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::objects;
use crate::world::{LIMIT, TOKEN, World, wait_until};

/// `postern-controller` as a child; it is killed when the value is dropped.
struct Program {
    child: Child,
    health: SocketAddr,
    log: Arc<Mutex<String>>,
    kubeconfig: PathBuf,
}

impl Program {
    async fn start(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let health = listener.local_addr().expect("an address");
        drop(listener);
        let name = format!(
            "postern-controller-{}-{}",
            std::process::id(),
            health.port()
        );
        let kubeconfig = std::env::temp_dir().join(name);
        let written = world.server.write_kubeconfig(&kubeconfig, Some(TOKEN));
        written.expect("a kubeconfig");
        let mut child = Command::new(env!("CARGO_BIN_EXE_postern-controller"))
            .args(["--log", "trace", "--listen", "127.0.0.1:0"])
            .args(["--health-listen", &health.to_string()])
            .env("KUBECONFIG", &kubeconfig)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let log: Arc<Mutex<String>> = Arc::default();
        let written = Arc::clone(&log);
        let stderr = child.stderr.take().expect("a pipe");
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = written.lock().expect("no panic");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self {
            child,
            health,
            log,
            kubeconfig,
        }
    }

    fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Status of an answer; 0 while nobody listens.
    async fn get(&self, path: &str) -> u16 {
        let Ok(mut socket) = TcpStream::connect(self.health).await else {
            return 0;
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = String::new();
        let sent = socket.write_all(request.as_bytes()).await;
        sent.expect("it can be sent");
        let read = socket.read_to_string(&mut answer).await;
        read.expect("an answer");
        let status = answer.split(' ').nth(1).expect("a status");
        status.parse().expect("a number")
    }

    async fn wait_for(&self, path: &str, status: u16) {
        let awaited = async {
            while self.get(path).await != status {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(LIMIT, awaited).await.is_ok();
        assert!(came, "{path} is not {status}:\n{}", self.log());
    }

    /// Asks it to end, and returns its exit code.
    async fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(killed.expect("kill").success());
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.expect("it ends").expect("it was started").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        std::fs::remove_file(&self.kubeconfig).ok();
    }
}

#[tokio::test]
async fn it_becomes_ready_works_tells_no_secret_and_ends_when_told() {
    let world = World::with_connector().await;
    let mut program = Program::start(&world).await;
    program.wait_for("/readyz", 200).await;
    program.wait_for("/healthz", 200).await;
    world.wait_for_condition("Ready", "True||").await;
    // A Secret that does not fit is spoken of; its values are not.
    let mut unfit = objects::secret("unfit", "hunter2");
    unfit["type"] = "Opaque".into();
    world.put(unfit).await;
    world.put(objects::connector("unfit", "unfit")).await;
    let seen = || world.condition("unfit", "SecretReady");
    wait_until(|| seen().starts_with("False|InvalidSecret"), seen).await;
    assert_eq!(program.terminate().await, Some(0), "{}", program.log());

    let log = program.log();
    assert!(!log.is_empty());
    // As it is, and as Secrets have it.
    for text in ["hunter2", "aHVudGVyMg", TOKEN] {
        assert!(!log.contains(text), "{text} is in the log");
        for object in everything(&world) {
            let is_secret = object["kind"] == "Secret";
            assert!(is_secret || !object.to_string().contains(text), "{object}");
        }
    }
}

/// Every object that the controller could have written to.
fn everything(world: &World) -> Vec<Value> {
    let handle = world.handle();
    [
        ("v1", "pods"),
        ("v1", "configmaps"),
        ("v1", "events"),
        ("v1", "namespaces"),
        ("v1", "secrets"),
        ("v1", "serviceaccounts"),
        ("coordination.k8s.io/v1", "leases"),
        ("connectors.postern.dev/v1alpha1", "connectors"),
        ("connectors.postern.dev/v1alpha1", "connectorclasses"),
    ]
    .into_iter()
    .flat_map(|(api, plural)| handle.objects(api, plural, "").expect(plural))
    .collect()
}

#[tokio::test]
async fn without_its_kinds_it_says_once_what_to_do_and_waits_for_them() {
    let world = World::without_kinds().await;
    let program = Program::start(&world).await;
    let lists = || {
        let requests = world.requests().into_iter();
        requests.filter(|it| it.status == 404).count()
    };
    wait_until(|| lists() >= 2, || program.log()).await;
    program.wait_for("/healthz", 200).await;
    assert_eq!(program.get("/readyz").await, 503);
    let words = "connectorclasses.connectors.postern.dev is not defined in this cluster: run \
                 `kubectl apply -k manifests/crds`";
    wait_until(|| program.log().contains(words), || program.log()).await;
    world.define_kinds(|_| {});
    program.wait_for("/readyz", 200).await;
    assert_eq!(program.log().matches(words).count(), 1);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let world = World::with_connector().await;
    world.handle().set_away(true);
    let program = Program::start(&world).await;
    let words = "the API server cannot be reached";
    let told = |level: &str| {
        let log = program.log();
        let lines = log.lines();
        lines
            .filter(|line| line.contains(words) && line.contains(level))
            .count()
    };
    wait_until(|| told("DEBUG") >= 4, || program.log()).await;
    program.wait_for("/healthz", 200).await;
    assert_eq!(told("WARN"), 1, "{}", program.log());
    world.handle().set_away(false);
    program.wait_for("/readyz", 200).await;
}
