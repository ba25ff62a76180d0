//! What is left of requests that are broken off while the upstream reads nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use postern::{limits::Tuning, state::Scheme, upstream::HttpVersion};
use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    runtime::Handle,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    certificates::{Authority, soon_over},
    frames::large_windows,
    rig::{self, Rig, Upstream, soon},
};

/// Who has not written anything for so long is held up.
const HELD_UP: Duration = Duration::from_millis(300);

/// More than all buffers on the way.
const MUCH: usize = 1 << 30;

fn tls(authority: &Authority, alpn: &[u8]) -> TlsAcceptor {
    let (leaf, key) = authority.issue(&["127.0.0.1"], soon_over());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .expect("a configuration");
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Waits until there are no more tasks than that; each connection has some.
async fn only(tasks: usize) {
    let metrics = Handle::current().metrics();
    soon(async {
        while metrics.num_alive_tasks() > tasks {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A proxy in front of an upstream that has a certificate.
async fn upstream(authority: &Authority) -> (Upstream, Rig) {
    let upstream = Upstream::start().await;
    let mut connector = rig::connector(upstream.address);
    connector.address.scheme = Scheme::Https;
    connector.extra_roots = Arc::new([authority.der.clone()]);
    let rig = Rig::of(connector, upstream.address, Tuning::default());
    (upstream, rig)
}

fn end(rig: &Rig) {
    rig.workload.end();
    rig.worker.upstream.forget(rig.workload.egress.id());
}

#[tokio::test]
async fn nothing_is_left_of_an_upload() {
    let authority = Authority::new();
    let tls = tls(&authority, b"http/1.1");
    let (mut upstream, rig) = upstream(&authority).await;
    let address = rig.listen(HttpVersion::Http1).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {}\r\nContent-Length: {MUCH}\r\n\r\n",
        rig.host()
    );
    client.write_all(head.as_bytes()).await.expect("room");
    let accepted = upstream.accept().await.0;
    let _server = soon(tls.accept(accepted)).await.expect("a handshake");
    let chunk = vec![b'x'; 1 << 16];
    while let Ok(written) = timeout(HELD_UP, client.write_all(&chunk)).await {
        written.expect("nobody gives up");
    }
    end(&rig);
    only(tasks).await;
}

#[tokio::test]
async fn nothing_is_left_of_an_upload_over_http2() {
    let authority = Authority::new();
    let tls = tls(&authority, b"h2");
    let (mut upstream, rig) = upstream(&authority).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut client = rig.http2().await;
    let (chunks, body) = mpsc::channel(1);
    let request = Request::post(format!("https://{}/", rig.host()))
        .body(StreamBody::new(ReceiverStream::new(body)))
        .expect("a request");
    let request = tokio::spawn(async move { client.send_request(request).await });
    let accepted = upstream.accept().await.0;
    let mut server = soon(tls.accept(accepted)).await.expect("a handshake");
    server.write_all(&large_windows()).await.expect("room");
    let chunk = Bytes::from(vec![0; 1 << 16]);
    let more = || chunks.send(Ok::<_, Infallible>(Frame::data(chunk.clone())));
    while let Ok(sent) = timeout(HELD_UP, more()).await {
        sent.expect("nobody gives up");
    }
    end(&rig);
    assert!(soon(request).await.expect("no panic").is_err());
    drop(chunks);
    let listener = 1;
    only(tasks + listener).await;
}
