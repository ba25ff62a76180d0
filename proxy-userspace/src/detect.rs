//! What they speak: told from the first bytes, which are left in the socket.

use std::{io, ops::ControlFlow};

use tokio::{io::Interest, net::TcpStream, time::timeout};

use crate::limits;

/// The protocol of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS, with what its `ClientHello` asks for.
    Tls {
        /// Server name, lower case; `None` when the client sent none.
        sni: Option<String>,
        /// Protocols offered, in order of preference (RFC 7301).
        alpn: Vec<Vec<u8>>,
    },
    /// HTTP/1.x, with the authority of its first request.
    Http1 {
        /// The `Host` header; `None` when there is none or more than one.
        host: Option<String>,
    },
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113, section 3.3).
    H2c,
    /// Anything else, or nothing in time.
    Opaque,
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
/// Longest method that is still taken for HTTP.
const METHOD_BYTES: usize = 24;

/// Looks at a connection's first bytes. A client that waits for the server to speak first is
/// [`Protocol::Opaque`] after [`limits::PEEK_TIME`].
pub async fn detect(stream: &TcpStream) -> io::Result<Protocol> {
    match timeout(limits::PEEK_TIME, peek(stream)).await {
        Ok(result) => result,
        Err(_) => Ok(Protocol::Opaque),
    }
}

async fn peek(stream: &TcpStream) -> io::Result<Protocol> {
    let mut buffer = vec![0; limits::PEEK_BYTES];
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let n = nix::sys::socket::recv(
                std::os::fd::AsRawFd::as_raw_fd(stream),
                &mut buffer,
                nix::sys::socket::MsgFlags::MSG_PEEK,
            )?;
            // Nothing new: clears the readiness, so that the next segment wakes us.
            if n == seen {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match peeked {
            Ok(n) => seen = n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Ok(Protocol::Opaque);
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        if let ControlFlow::Break(protocol) = inspect(&buffer[..seen]) {
            return Ok(protocol);
        }
        if seen == buffer.len() {
            return Ok(Protocol::Opaque);
        }
    }
}

/// Decides from a prefix of the stream, or asks for more of it.
pub fn inspect(bytes: &[u8]) -> ControlFlow<Protocol> {
    match bytes.first() {
        None => ControlFlow::Continue(()),
        Some(&TLS_HANDSHAKE) => inspect_tls(bytes),
        Some(_) if bytes.starts_with(H2_PREFACE) => ControlFlow::Break(Protocol::H2c),
        Some(_) if H2_PREFACE.starts_with(bytes) => ControlFlow::Continue(()),
        Some(_) => inspect_http1(bytes),
    }
}

fn inspect_tls(bytes: &[u8]) -> ControlFlow<Protocol> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    loop {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return ControlFlow::Continue(()),
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return ControlFlow::Break(Protocol::Tls {
                    sni: hello.server_name().map(str::to_ascii_lowercase),
                    alpn: hello
                        .alpn()
                        .map(|offers| offers.map(<[u8]>::to_vec).collect())
                        .unwrap_or_default(),
                });
            }
            Err(_) => return ControlFlow::Break(Protocol::Opaque),
        }
    }
}

fn inspect_http1(bytes: &[u8]) -> ControlFlow<Protocol> {
    let method = bytes.iter().take(METHOD_BYTES).position(|&b| b == b' ');
    let letters = &bytes[..method.unwrap_or(bytes.len().min(METHOD_BYTES))];
    if letters.is_empty() || !letters.iter().all(|b| b.is_ascii_uppercase() || *b == b'-') {
        return ControlFlow::Break(Protocol::Opaque);
    }
    if method.is_none() {
        return if bytes.len() < METHOD_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(Protocol::Opaque)
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; limits::HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => ControlFlow::Continue(()),
        Ok(httparse::Status::Complete(_)) => ControlFlow::Break(Protocol::Http1 {
            host: single_host(request.headers),
        }),
        Err(_) => ControlFlow::Break(Protocol::Opaque),
    }
}

fn single_host(headers: &[httparse::Header<'_>]) -> Option<String> {
    let mut hosts = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = std::str::from_utf8(hosts.next()?.value).ok()?;
    hosts.next().is_none().then(|| host.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(bytes: &[u8]) -> Protocol {
        match inspect(bytes) {
            ControlFlow::Break(protocol) => protocol,
            ControlFlow::Continue(()) => panic!("no decision from {bytes:?}"),
        }
    }

    fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = name.to_owned().try_into().expect("a server name");
        let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a ClientHello");
        bytes
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
}
