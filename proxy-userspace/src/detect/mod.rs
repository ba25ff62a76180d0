//! What they speak: told from the first bytes, which are left in the socket.

mod first;
mod peek;

pub use first::{First, first};

use std::ops::ControlFlow;

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
    /// Anything else.
    Opaque,
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
/// Longest method that is still taken for HTTP.
const METHOD_BYTES: usize = 24;

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

/// Decides from the first bytes when there is no room for more: of HTTP/1.x the fields that are
/// complete have to do. The whole head is judged later, wherever its end is.
pub fn inspect_beginning(bytes: &[u8]) -> Protocol {
    let lines = bytes.windows(2).rposition(|pair| pair == b"\r\n");
    let complete = &bytes[..lines.map_or(0, |at| at + 2)];
    match inspect(&[complete, b"\r\n"].concat()) {
        ControlFlow::Break(protocol @ Protocol::Http1 { .. }) => protocol,
        _ => Protocol::Opaque,
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
mod tests;
