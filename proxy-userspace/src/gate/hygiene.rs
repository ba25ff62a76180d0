//! What belongs to one hop stays on it, and what means different things to different
//! parsers is refused.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
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
/// How a body is framed, and what else only the bytes of a head tell, is the business of the
/// guard on HTTP/1.1 and of h2 on HTTP/2; what is sent on is framed anew.
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
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return bad("the request has more than one Content-Length field; send one");
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
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The protocols that a client asks to change to (RFC 9110, section 7.8).
///
/// HTTP/2 is not one of them: what would be said in it nobody here would see (RFC 9113,
/// section 3.1).
pub fn wanted_protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut fields = headers.get_all(UPGRADE).iter();
    let protocols = fields.next()?;
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade")));
    let http = tokens(protocols).any(|protocol| {
        let name = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other))
    });
    let any = tokens(protocols).next().is_some();
    (named && any && !http && fields.next().is_none()).then(|| protocols.clone())
}

/// Whether `chosen` is one of the protocols that were asked for.
pub fn offers(protocols: &HeaderValue, chosen: &HeaderValue) -> bool {
    let mut chosen = tokens(chosen);
    let first = chosen.next();
    first.is_some_and(|first| {
        chosen.next().is_none()
            && tokens(protocols).any(|protocol| protocol.eq_ignore_ascii_case(first))
    })
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Takes from an answer what is not for the client.
pub fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // It would lead the client to HTTP/3, where no credential is injected (RFC 7838).
    headers.remove(ALT_SVC);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have none, and looking at what is there is cheaper than looking for each.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|name| name.parse().ok())
        // A client must not be able to have end-to-end fields removed by naming them.
        .filter(|name| *name != TRAILER && *name != CONTENT_LENGTH && *name != http::header::HOST)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_protocol_is_wanted_by_two_fields_and_is_never_http() {
        for (upgrade, connection, wanted) in [
            ("websocket", "Upgrade", true),
            ("websocket", "keep-alive, upgrade", true),
            ("SPDY/3.1", "upgrade", true),
            ("websocket", "keep-alive", false),
            ("h2c", "upgrade", false),
            ("H2C", "upgrade, http2-settings", false),
            ("websocket, h2c", "upgrade", false),
            ("HTTP/2.0", "upgrade", false),
            ("TLS/1.2", "upgrade", false),
            (" , ", "upgrade", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            let found = wanted_protocols(&headers).is_some();
            assert_eq!(found, wanted, "{upgrade} {connection}");
        }
    }

    #[test]
    fn an_upstream_chooses_one_of_what_was_wanted() {
        let wanted = HeaderValue::from_static("websocket, a/1");
        for (chosen, fits) in [
            ("WebSocket", true),
            ("a/1", true),
            ("a/2", false),
            ("websocket, a/1", false),
            ("", false),
        ] {
            let chosen = HeaderValue::from_static(chosen);
            assert_eq!(offers(&wanted, &chosen), fits, "{chosen:?}");
        }
    }

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
