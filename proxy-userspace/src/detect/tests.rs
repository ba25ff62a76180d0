use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use rustls::{
    client::{EchConfig, EchGreaseConfig, EchMode},
    crypto::{
        aws_lc_rs::{default_provider, hpke::ALL_SUPPORTED_SUITES},
        hpke::{Hpke, HpkePublicKey},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    net::TcpStream,
};

use super::{peek::peek, *};

fn decided(bytes: &[u8]) -> Protocol {
    match inspect(bytes) {
        ControlFlow::Break(protocol) => protocol,
        ControlFlow::Continue(()) => panic!("no decision from {bytes:?}"),
    }
}

fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    hello_of(client(), name, alpn)
}

fn client() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
    rustls::ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("default versions")
}

fn hello_of(
    client: rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>,
    name: &str,
    alpn: &[&[u8]],
) -> Vec<u8> {
    let mut config = client
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = name.to_owned().try_into().expect("a server name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a ClientHello");
    bytes
}

fn tls(sni: &str) -> Protocol {
    Protocol::Tls {
        sni: Some(sni.into()),
        alpn: vec![],
    }
}

/// What `number` is in `extension_type` of the hello (RFC 8446, section 4.2).
fn has_extension(hello: &[u8], number: u16) -> bool {
    let number = number.to_be_bytes();
    hello.windows(2).any(|bytes| bytes == number)
}

const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

fn key_pair() -> (&'static dyn Hpke, HpkePublicKey) {
    let suite = ALL_SUPPORTED_SUITES[0];
    let (key, _) = suite.generate_key_pair().expect("a key");
    (suite, key)
}

#[test]
fn a_placeholder_for_an_encrypted_hello_changes_nothing() {
    let (suite, key) = key_pair();
    let grease = EchMode::Grease(EchGreaseConfig::new(suite, key));
    let client = rustls::ClientConfig::builder_with_provider(default_provider().into());
    let client = client.with_ech(grease).expect("a placeholder");
    let bytes = hello_of(client, "registry.example.com", &[]);
    assert!(has_extension(&bytes, ENCRYPTED_CLIENT_HELLO));
    assert_eq!(decided(&bytes), tls("registry.example.com"));
}

#[test]
fn of_an_encrypted_hello_the_public_name_counts() {
    let (suite, key) = key_pair();
    let public = b"public.example.com";
    // RFC 9849, section 4: an ECHConfigList with one ECHConfig.
    let mut contents = vec![7];
    contents.extend(suite.suite().kem.to_array());
    contents.extend(u16::try_from(key.0.len()).expect("short").to_be_bytes());
    contents.extend(&key.0);
    let mut ciphers = suite.suite().sym.kdf_id.to_array().to_vec();
    ciphers.extend(suite.suite().sym.aead_id.to_array());
    contents.extend([0, 4]);
    contents.extend(ciphers);
    contents.extend([0, u8::try_from(public.len()).expect("short")]);
    contents.extend(public);
    contents.extend([0, 0]);
    let mut config = ENCRYPTED_CLIENT_HELLO.to_be_bytes().to_vec();
    config.extend(u16::try_from(contents.len()).expect("short").to_be_bytes());
    config.extend(contents);
    let mut list = u16::try_from(config.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    list.extend(config);

    let config = EchConfig::new(list.into(), ALL_SUPPORTED_SUITES).expect("a configuration");
    let client = rustls::ClientConfig::builder_with_provider(default_provider().into());
    let client = client.with_ech(config.into()).expect("a mode");
    let bytes = hello_of(client, "registry.example.com", &[]);
    assert!(has_extension(&bytes, ENCRYPTED_CLIENT_HELLO));
    assert_eq!(decided(&bytes), tls("public.example.com"));
}

/// A hello with a key share that does not fit into one packet.
fn post_quantum_hello() -> Vec<u8> {
    let mut provider = default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let client = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    hello_of(client, "registry.example.com", &[])
}

/// A message of the handshake in records of at most this size (RFC 8446, section 5.1).
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for part in hello[5..].chunks(size) {
        records.extend(&hello[..3]);
        records.extend(u16::try_from(part.len()).expect("short").to_be_bytes());
        records.extend(part);
    }
    records
}

#[test]
fn a_client_hello_may_come_in_several_records() {
    let bytes = in_records(&post_quantum_hello(), 100);
    assert!(inspect(&bytes[..bytes.len() - 1]).is_continue());
    assert_eq!(decided(&bytes), tls("registry.example.com"));
}

#[tokio::test]
async fn a_large_hello_in_two_segments_is_read_and_left_in_the_socket() {
    let bytes = post_quantum_hello();
    assert!(bytes.len() > 1400, "{}", bytes.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (mut server, _) = listener.accept().await.expect("a connection");
    let (first, second) = bytes.split_at(700);
    client.write_all(first).await.expect("room");
    let mut beginning = vec![0; bytes.len()];
    let mut there = 0;
    while there < first.len() {
        there = server.peek(&mut beginning).await.expect("bytes");
    }
    assert!(inspect(&beginning[..there]).is_continue());
    let looking = async { peek(&server).await };
    let sending = async {
        tokio::task::yield_now().await;
        client.write_all(second).await
    };
    let (looked, sent) = tokio::join!(looking, sending);
    sent.expect("room");
    assert_eq!(looked.expect("bytes"), tls("registry.example.com"));
    let mut left = vec![0; bytes.len()];
    server.read_exact(&mut left).await.expect("all of it");
    assert_eq!(left, bytes);
}

#[tokio::test]
async fn a_hello_beyond_the_bound_is_no_longer_waited_for() {
    // An extension of 20,000 bytes that nobody knows, in as many records as it takes.
    let bytes = post_quantum_hello();
    let mut body = bytes[9..].to_vec();
    let padding = [vec![0x7a, 0x7a, 0x4e, 0x20], vec![0; 20_000]].concat();
    let extensions = extensions_at(&body);
    let length = u16::from_be_bytes([body[extensions], body[extensions + 1]]);
    let length = length + u16::try_from(padding.len()).expect("short");
    body[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    body.extend(padding);
    let mut hello = bytes[..6].to_vec();
    hello.extend(&u32::try_from(body.len()).expect("short").to_be_bytes()[1..]);
    hello.extend(body);
    let hello = in_records(&hello, 16_000);
    assert_eq!(
        decided(&hello),
        tls("registry.example.com"),
        "sound in itself"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (server, _) = listener.accept().await.expect("a connection");
    let (written, seen) = tokio::join!(client.write_all(&hello), peek(&server));
    written.expect("room");
    assert_eq!(seen.expect("bytes"), Protocol::Opaque);
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_told_from_the_fields_within() {
    let cookie = format!("Cookie: {}\r\n", "c".repeat(20_000));
    for (head, expected) in [
        (
            format!("GET / HTTP/1.1\r\nHost: a.test\r\n{cookie}\r\n"),
            Protocol::Http1 {
                host: Some("a.test".into()),
            },
        ),
        (
            format!("GET / HTTP/1.1\r\n{cookie}Host: a.test\r\n\r\n"),
            Protocol::Http1 { host: None },
        ),
        (
            format!(
                "GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n",
                "p".repeat(20_000)
            ),
            Protocol::Opaque,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        let (written, seen) = tokio::join!(client.write_all(head.as_bytes()), peek(&server));
        written.expect("room");
        assert_eq!(seen.expect("bytes"), expected);
    }
}

/// What is behind urgent data cannot be looked at, and would be waited for.
#[tokio::test]
async fn nothing_is_waited_for_that_urgent_data_hides() {
    let hello = client_hello("registry.example.com", &[]);
    for (before, behind) in [
        (&b"GET"[..], &b" / HTTP/1.1\r\n\r\n"[..]),
        (&hello[..50], &hello[51..]),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        setsockopt(&listener, sockopt::OobInline, &true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        let sending = async {
            client.write_all(before).await.expect("room");
            send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB).expect("room");
            client.write_all(behind).await.expect("room");
        };
        let ((), seen) = tokio::join!(sending, peek(&server));
        assert_eq!(seen.expect("bytes"), Protocol::Opaque);
        // Whoever passes them on does not wait for more.
        let mut beginning = vec![0; before.len() + 1];
        assert_eq!(
            server.try_read(&mut beginning).expect("bytes"),
            before.len()
        );
    }
}

/// Where the length of the extensions is, in a `ClientHello` (RFC 8446, section 4.1.2).
fn extensions_at(body: &[u8]) -> usize {
    let mut at = 2 + 32;
    at += 1 + usize::from(body[at]);
    at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    at + 1 + usize::from(body[at])
}

#[test]
fn a_client_hello_tells_name_and_protocols() {
    let bytes = client_hello("Registry.example.com", &[b"h2", b"http/1.1"]);
    assert_eq!(
        decided(&bytes),
        Protocol::Tls {
            sni: Some("registry.example.com".into()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    );
}

#[test]
fn a_client_hello_may_come_in_any_number_of_pieces() {
    let bytes = client_hello("registry.example.com", &[]);
    for end in 1..bytes.len() {
        assert!(inspect(&bytes[..end]).is_continue(), "decided after {end}");
    }
    assert!(inspect(&bytes).is_break());
}

#[test]
fn an_address_in_place_of_a_name_is_no_sni() {
    let bytes = client_hello("192.0.2.1", &[]);
    assert_eq!(
        decided(&bytes),
        Protocol::Tls {
            sni: None,
            alpn: vec![],
        }
    );
}

#[test]
fn http_is_told_from_its_host() {
    assert_eq!(
        decided(b"GET / HTTP/1.1\r\nHost: Registry.example.com:5000\r\n\r\n"),
        Protocol::Http1 {
            host: Some("Registry.example.com:5000".into()),
        }
    );
    assert_eq!(
        decided(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        Protocol::Http1 { host: None }
    );
    assert_eq!(decided(H2_PREFACE), Protocol::H2c);
}

#[test]
fn other_protocols_are_left_alone() {
    for bytes in [
        &b"\x00\x00\x00\x01hello"[..],
        b"ssh-2.0-client\r\n",
        b"AVERYLONGWORDTHATISNOMETHODATALL",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b" GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(decided(bytes), Protocol::Opaque, "{bytes:?}");
    }
}
