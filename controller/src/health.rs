//! Whether the controller is alive, and whether it knows the cluster: for the kubelet.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::nodes::Nodes;

/// How long the event loop may take for one turn.
const PULSE: Duration = Duration::from_secs(5);
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait.
const CONNECTIONS: usize = 64;

/// Asks an event loop whether it lives.
#[derive(Clone, Debug)]
pub struct Pulse(mpsc::Sender<Ping>);

/// What an event loop is asked.
#[derive(Debug)]
pub struct Pings(mpsc::Receiver<Ping>);

/// One question whether the event loop lives.
#[derive(Debug)]
pub struct Ping(oneshot::Sender<()>);

/// Connects those who ask with an event loop.
pub fn pulse() -> (Pulse, Pings) {
    let (sender, receiver) = mpsc::channel(CONNECTIONS);
    (Pulse(sender), Pings(receiver))
}

impl Pulse {
    /// Whether the event loop comes to answer.
    pub async fn beats(&self) -> bool {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.0.send(Ping(sender)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(PULSE, asked)
            .await
            .is_ok_and(|answer| answer.is_some())
    }
}

impl Pings {
    /// The next question; `None` once nobody can ask any more.
    pub async fn next(&mut self) -> Option<Ping> {
        self.0.recv().await
    }
}

impl Ping {
    /// Answers.
    pub fn answer(self) {
        // Whoever asked may have gone.
        self.0.send(()).ok();
    }
}

/// What it takes to be of use to agents.
#[derive(Clone)]
pub struct Ready {
    nodes: Arc<Nodes>,
    serves: Arc<AtomicBool>,
}

impl Ready {
    /// Not yet: nobody serves.
    pub fn new(nodes: Arc<Nodes>) -> Self {
        let serves = Arc::default();
        Self { nodes, serves }
    }

    /// Set once agents are served: there is an authority, and somebody takes their calls.
    pub fn serves(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.serves)
    }

    /// What is missing.
    fn missing(&self) -> Option<&'static str> {
        if !self.nodes.is_complete() {
            Some("the cluster is not known yet\n")
        } else if !self.serves.load(Ordering::Relaxed) {
            Some("agents are not served yet: there is no root authority\n")
        } else {
            None
        }
    }
}

/// Answers `GET /healthz` (the event loop lives) and `GET /readyz` (the cluster is known, and
/// agents are served), until it is dropped: 200, or 503.
pub async fn serve(listener: TcpListener, pulse: Pulse, ready: Ready) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(room) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("cannot accept connections for health checks: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (pulse, ready) = (pulse.clone(), ready.clone());
        let answers = service_fn(move |request| {
            let (pulse, ready) = (pulse.clone(), ready.clone());
            async move { Ok::<_, Infallible>(answer(&request, &pulse, &ready).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), answers);
        tokio::spawn(async move {
            let _room = room;
            // A client that goes away, or asks nothing, is no fault of ours.
            drop(tokio::time::timeout(2 * PATIENCE, connection).await);
        });
    }
}

async fn answer<B>(request: &Request<B>, pulse: &Pulse, ready: &Ready) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => {
            let dead = "the event loop does not answer\n";
            judged((!pulse.beats().await).then_some(dead))
        }
        (&Method::GET | &Method::HEAD, "/readyz") => judged(ready.missing()),
        (_, "/healthz" | "/readyz") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
        _ => (StatusCode::NOT_FOUND, "/healthz or /readyz\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

fn judged(fault: Option<&'static str>) -> (StatusCode, &'static str) {
    match fault {
        None => (StatusCode::OK, "ok\n"),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(path: &str, pulse: &Pulse, ready: &Ready) -> u16 {
        let request = Request::get(path).body(()).expect("a request");
        answer(&request, pulse, ready).await.status().as_u16()
    }

    #[tokio::test]
    async fn it_is_alive_while_the_event_loop_answers() {
        let (pulse, mut pings) = pulse();
        let ready = Ready::new(Arc::default());
        let (status, ()) = tokio::join!(status("/healthz", &pulse, &ready), async {
            pings.next().await.expect("a ping").answer();
        });
        assert_eq!(status, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_dead_when_the_event_loop_has_ended_or_hangs() {
        let ready = Ready::new(Arc::default());
        let (hanging, _pings) = pulse();
        assert_eq!(status("/healthz", &hanging, &ready).await, 503);
        let (ended, pings) = pulse();
        drop(pings);
        assert_eq!(status("/healthz", &ended, &ready).await, 503);
    }

    #[tokio::test]
    async fn it_is_ready_once_the_cluster_is_known_and_agents_are_served() {
        let (pulse, _pings) = pulse();
        let known = Arc::<Nodes>::default();
        let ready = Ready::new(Arc::clone(&known));
        assert_eq!(status("/readyz", &pulse, &ready).await, 503);
        known.complete();
        assert_eq!(status("/readyz", &pulse, &ready).await, 503);
        ready.serves().store(true, Ordering::Relaxed);
        assert_eq!(status("/readyz", &pulse, &ready).await, 200);
        assert_eq!(status("/", &pulse, &ready).await, 404);
    }
}
