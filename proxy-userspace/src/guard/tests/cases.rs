//! Requests that the guard refuses, and some that it lets pass.

/// What hyper does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hyper {
    Refuses,
    /// The service gets a request.
    Takes,
}
use Hyper::{Refuses, Takes};

/// Everything that is refused, a part of the reason, and what hyper does about it.
#[rustfmt::skip]
pub(super) const REFUSED: &[(&str, &str, Hyper)] = &[
    // how long the body is
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "contradict", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "contradict", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "more than one content-length", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "more than one content-length", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 6\r\n\r\nxxxxxx", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 5\r\n\r\nxxxxx", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +5\r\n\r\nxxxxx", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0x5\r\n\r\nxxxxx", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: -1\r\n\r\n", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 18446744073709551616\r\n\r\n", "decimal", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent_Length: 5\r\n\r\n", "some servers take", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer_Encoding: chunked\r\n\r\n", "some servers take", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "nothing but", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "nothing but", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity\r\n\r\n", "nothing but", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "nothing but", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "nothing but", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n\r\n", "nothing but", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "control character 0x0b", Refuses),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "more than one transfer-encoding", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "more than one transfer-encoding", Refuses),
    ("POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "only defined for HTTP/1.1", Refuses),
    // how lines end, and what is in them
    ("GET / HTTP/1.1\nHost: a.test\n\n", "LF alone", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\n\r\n", "LF alone", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nA: b\rc\r\n\r\n", "CR that ends no line", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n", "CR that ends no line", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nA: b\0c\r\n\r\n", "control character 0x00", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nA: b\x7fc\r\n\r\n", "control character 0x7f", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n c\r\n\r\n", "folded", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n\tc\r\n\r\n", "folded", Refuses),
    ("GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", "folded", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length : 5\r\n\r\nxxxxx", "space before the colon", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\n: b\r\n\r\n", "name of a field is empty", Refuses),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nno colon\r\n\r\n", "name of a field", Refuses),
    ("\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "empty line", Takes),
    // the request line
    ("GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET\t/\tHTTP/1.1\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET /\r\n\r\n", "request line", Refuses),
    ("GET / HTTP/1.2\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET / HTTP/2.0\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("G(T / HTTP/1.1\r\nHost: a.test\r\n\r\n", "request line", Refuses),
    ("GET /#part HTTP/1.1\r\nHost: a.test\r\n\r\n", "fragment", Takes),
    ("GET /?a#b HTTP/1.1\r\nHost: a.test\r\n\r\n", "fragment", Takes),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a.test\r\n\r\n", "no ASCII", Takes),
    ("GET path HTTP/1.1\r\nHost: a.test\r\n\r\n", "neither a path", Takes),
    ("GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", "neither a path", Takes),
    ("GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "neither a path", Takes),
    ("GET * HTTP/1.1\r\nHost: a.test\r\n\r\n", "neither a path", Takes),
    ("GET http://user@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "user", Takes),
    ("GET http:///x HTTP/1.1\r\nHost: a.test\r\n\r\n", "names no host", Refuses),
    ("CONNECT user@a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", "user", Takes),
    ("CONNECT /x HTTP/1.1\r\nHost: a.test\r\n\r\n", "names no host", Takes),
    // the host
    ("GET / HTTP/1.1\r\n\r\n", "names no host", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", "more than one host", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n", "more than one host", Takes),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "not a host", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", "not a host", Takes),
    ("GET / HTTP/1.1\r\nHost: user@a.test\r\n\r\n", "not a host", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n", "not a host", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test:port\r\n\r\n", "not a host", Takes),
    ("GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "different hosts", Takes),
    // other protocols
    ("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx", "no body", Takes),
    ("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "no body", Takes),
    ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx", "no body", Takes),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: something\r\nContent-Length: 1\r\n\r\nx", "100-continue", Takes),
];

/// Sound requests, and what the service sees of them.
#[rustfmt::skip]
pub(super) const SOUND_ONES: &[(&str, &str)] = &[
    ("GET /a?b=%20|{} HTTP/1.1\r\nHost: a.test:443\r\nX: \u{e9}\t\"\r\n\r\n", "GET /a?b=%20|{} "),
    ("POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", "POST /a hello"),
    ("POST /a HTTP/1.1\r\nHost: a.test\r\ncontent-length:0\r\n\r\n", "POST /a "),
    ("POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=\"b\"\r\nhel\r\n00000002\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n", "POST /a hello"),
    ("PUT /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n0\r\n\r\nGET \r\n0\r\n\r\n", "PUT /a 0\r\n\r\nGET "),
    ("OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n", "OPTIONS * "),
    ("GET http://a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET http://a.test/a "),
    ("GET /b HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET /b "),
    ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "CONNECT a.test:443 "),
];
