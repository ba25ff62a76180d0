//! What belongs to one hop stays on it, and what means different things to different
//! parsers is refused.

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Version,
    header::{
        ALT_SVC, CONNECTION, CONTENT_LENGTH, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
};

use super::{Refusal, Site};
use crate::credential::paths::has_dot_segment;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that are about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Refuses heads that an upstream might read differently than Postern does.
///
/// Conflicting lengths never get here: hyper refuses differing Content-Lengths and drops one
/// beside Transfer-Encoding, and what is sent on is framed anew.
pub fn check_head(site: &Site, head: &Parts) -> Result<(), Refusal> {
    let bad = |reason| Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    if head.method == Method::TRACE {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "TRACE would echo the injected credential and is not forwarded",
        ));
    }
    if head.method == Method::CONNECT {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is for proxies, and this connection was made for the server itself",
        ));
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        if head.version != Version::HTTP_11 {
            return bad("Transfer-Encoding is only defined for HTTP/1.1");
        }
        let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return bad("Transfer-Encoding may be nothing but \"chunked\"");
        }
    }
    if site.has_prefixes() && has_dot_segment(head.uri.path()) {
        return bad(
            "the path has \".\" or \"..\" segments, and which Connector it belongs to is \
             decided by its beginning; send the path without them",
        );
    }
    Ok(())
}

/// Takes from a request what is not for the upstream.
pub fn strip_request(headers: &mut HeaderMap) {
    let trailers = headers
        .get(TE)
        .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    // The answer to it is ours to give: the client is told to go on when the upstream takes
    // the first byte.
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, http::HeaderValue::from_static("trailers"));
    }
}

/// Takes from an answer what is not for the client.
pub fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // It would lead the client to HTTP/3, where no credential is injected (RFC 7838).
    headers.remove(ALT_SVC);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client must not be able to have end-to-end fields removed by naming them.
        .filter(|name| *name != TRAILER && *name != CONTENT_LENGTH && *name != http::header::HOST)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_connection_names_stays_on_the_hop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Hop, content-length"),
            ("x-hop", "1"),
            ("x-end", "1"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
            ("trailer", "x-checksum"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip_request(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "te", "trailer", "x-end"]);
    }
}
