//! One request head of HTTP/1.1, judged by its bytes.

use std::{borrow::Cow, mem::MaybeUninit};

use http::StatusCode;
use httparse::Header;

use crate::{gate::Refusal, limits, state::split_authority};

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// So many bytes of a body, then the next head.
    Body(u64),
    /// A body in chunks, then the next head.
    Chunks,
    /// What the answer decides: the next head, or bytes of another protocol.
    Answer,
}

type Judged<T> = Result<T, Refusal>;

/// Looks for the end of the head that `bytes` begin with: the first empty line.
/// `seen` bytes were looked at before.
///
/// Refuses what no head may contain: control characters, CR and LF on their own.
pub(super) fn end(bytes: &[u8], seen: usize) -> Judged<Option<usize>> {
    if bytes.starts_with(b"\r\n") {
        return Err(bad("an empty line precedes the request; send none"));
    }
    // A CR may have been the last one.
    for at in seen.saturating_sub(1)..bytes.len() {
        match bytes[at] {
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => {
                return Err(bad(
                    "a line of the head ends with LF alone; end it with CR LF",
                ));
            }
            b'\n' if bytes[..at].ends_with(b"\r\n\r") => return fits(at + 1).map(Some),
            b'\r' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => {
                return Err(bad("the head has a CR that ends no line"));
            }
            b'\r' | b'\n' | b'\t' => {}
            byte if byte.is_ascii_control() => {
                return Err(bad(format!(
                    "the head has the control character 0x{byte:02x}"
                )));
            }
            _ => {}
        }
    }
    fits(bytes.len()).map(|_| None)
}

fn fits(length: usize) -> Judged<usize> {
    // hyper takes a head that fills its whole buffer for one that is too large.
    if length < limits::HEAD_BYTES {
        return Ok(length);
    }
    Err(Refusal::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        format!("the head is larger than {} bytes", limits::HEAD_BYTES - 1),
    ))
}

/// Judges a complete head.
pub(super) fn check(bytes: &[u8]) -> Judged<Follows> {
    let mut fields = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(bad("the head cannot be read")),
        // No name of a field starts with a space.
        Err(_) if is_folded(bytes) => {
            return Err(bad(
                "a field of the head is folded over two lines (RFC 9112, section 5.2); write it \
                 on one",
            ));
        }
        Err(error) => return Err(unreadable(error)),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(bad("the request line is not complete"));
    };
    let authority = check_target(method, target)?;
    let fields = Fields(request.headers);
    let host = fields.host(minor)?;
    // RFC 9112, section 3.2.2: they must not differ, and which one an upstream believes is
    // anybody's guess. What CONNECT names is another's host.
    if method != "CONNECT"
        && let (Some(authority), Some(host)) = (authority, host)
        && Some(authority) != split_authority(host)
    {
        return Err(bad(
            "the Host header and the request target name different hosts",
        ));
    }
    let body = fields.body(minor)?;
    if let Some(expectation) = fields.single(&["expect"])?
        && !expectation.eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::new(
            StatusCode::EXPECTATION_FAILED,
            "Expect may be nothing but \"100-continue\"",
        ));
    }
    if method != "CONNECT" && !(minor == 1 && fields.has("upgrade")) {
        return Ok(body);
    }
    if body == Follows::Body(0) {
        Ok(Follows::Answer)
    } else {
        // Whoever takes the upgrade for granted reads the body as the other protocol.
        Err(bad(
            "a request that asks for another protocol may have no body",
        ))
    }
}

fn is_folded(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|w| w == b"\r\n " || w == b"\r\n\t")
}

/// Host and port.
type Authority = (String, Option<u16>);

/// The forms of RFC 9112, section 3.2; the host of those that name one.
fn check_target(method: &str, target: &str) -> Judged<Option<Authority>> {
    if target.len() > limits::TARGET_BYTES {
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            format!(
                "the request target is longer than {} bytes",
                limits::TARGET_BYTES
            ),
        ));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad(
            "the request target has a character that is no ASCII; encode it as %XX",
        ));
    }
    if target.contains('#') {
        return Err(bad(
            "the request target has a fragment (#), which is not for servers",
        ));
    }
    let authority = if method == "CONNECT" {
        Some(target)
    } else if let Some((scheme, rest)) = target.split_once("://")
        && ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        rest.split(['/', '?']).next()
    } else if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        None
    } else {
        return Err(bad(
            "the request target is neither a path nor an http or https URL",
        ));
    };
    let Some(authority) = authority else {
        return Ok(None);
    };
    if authority.contains('@') {
        return Err(bad("the request target has a user in it (user@host)"));
    }
    split_authority(authority)
        .map(Some)
        .ok_or_else(|| bad("the request target names no host"))
}

struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    fn has(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// The one field of this name. The first of `names` is the right one; the others are
    /// what some servers take for it.
    fn single(&self, names: &[&'static str]) -> Judged<Option<&'a [u8]>> {
        let mut found = None;
        for field in self.0 {
            let Some(n) = names
                .iter()
                .position(|name| field.name.eq_ignore_ascii_case(name))
            else {
                continue;
            };
            if n > 0 {
                return Err(bad(format!(
                    "some servers take {} for {}",
                    names[n], names[0]
                )));
            }
            if found.replace(field.value).is_some() {
                return Err(bad(format!(
                    "the request has more than one {} field; send one",
                    names[0]
                )));
            }
        }
        Ok(found)
    }

    /// RFC 9112, section 3.2: exactly one, and valid.
    fn host(&self, minor: u8) -> Judged<Option<&'a str>> {
        match self.single(&["host"])? {
            Some(host) => std::str::from_utf8(host)
                .ok()
                .filter(|host| is_simple_name(host) || split_authority(host).is_some())
                .map(Some)
                .ok_or_else(|| bad("the Host header is not a host with an optional port")),
            None if minor == 0 => Ok(None),
            None => Err(bad("the request names no host; send a Host header")),
        }
    }

    /// How long the body is, by the one way of saying it (RFC 9112, section 6).
    fn body(&self, minor: u8) -> Judged<Follows> {
        let coding = self.single(&["transfer-encoding", "transfer_encoding"])?;
        let length = self.single(&["content-length", "content_length"])?;
        match (coding, length) {
            (Some(_), _) if minor == 0 => {
                Err(bad("Transfer-Encoding is only defined for HTTP/1.1"))
            }
            (Some(_), Some(_)) => Err(bad(
                "the request has Content-Length and Transfer-Encoding, which contradict each other",
            )),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Follows::Chunks),
            (Some(_), None) => Err(bad("Transfer-Encoding may be nothing but \"chunked\"")),
            (None, Some(length)) => decimal(length)
                .map(Follows::Body)
                .ok_or_else(|| bad("the Content-Length is not one decimal number")),
            (None, None) => Ok(Follows::Body(0)),
        }
    }
}

/// Whether this is a host without a doubt, as most are, so that nothing has to be made of it.
fn is_simple_name(host: &str) -> bool {
    !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}

/// Digits alone: no sign, no list, no space.
fn decimal(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // The two largest numbers have a meaning of their own in hyper.
    plain.then(|| digits.parse().ok().filter(|n| *n < u64::MAX - 1))?
}

fn unreadable(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the head has more than {} fields", limits::HEADERS),
        ),
        httparse::Error::HeaderName => bad(
            "the name of a field is empty or has a character that is not allowed, such as a space \
             before the colon",
        ),
        httparse::Error::HeaderValue => {
            bad("a field of the head has a character that is not allowed")
        }
        httparse::Error::Version => bad("the request line does not end with HTTP/1.1 or HTTP/1.0"),
        _ => bad("the request line is not METHOD TARGET HTTP/1.1 with one space in between"),
    }
}

fn bad(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}
