//! Any bytes as the head of an HTTP/1 request: what gets through is for the host that the
//! connection was made for, by every reading, and nothing of the hop before goes along.
#![no_main]

use std::sync::{Arc, LazyLock};

use http::{Request, header::HOST, request::Parts};
use libfuzzer_sys::fuzz_target;
use postern::{
    gate::{Policies, Prepared, Site, check_authority, check_head, strip_request},
    limits,
    state::{
        Address, ClientAuthorization, Connector, ConnectorId, FailurePolicy, OnUntrustedCa,
        Protocol, Scheme,
    },
    tls::Roots,
    workload::PolicyId,
};

const NAME: &str = "api.example.com";
const PORT: u16 = 443;

static SITE: LazyLock<Arc<Site>> = LazyLock::new(|| {
    let connector = Connector {
        id: ConnectorId(1),
        namespace: "default".into(),
        name: "api".into(),
        class: "generic-basic".into(),
        address: Address {
            scheme: Scheme::Https,
            host: NAME.into(),
            port: PORT,
            path: "/team".into(),
        },
        extensions: Vec::new(),
        protocol: Protocol::Http,
        credential: None,
        client_authorization: ClientAuthorization::Replace,
        failure_policy: FailurePolicy::Closed,
        on_untrusted_ca: OnUntrustedCa::Fail,
        extra_roots: Arc::default(),
    };
    let prepared = Prepared::new(&Arc::new(connector), &Roots::none()).expect("no roots");
    let routes = Policies::new([(PolicyId(1), vec![prepared])]).routes(PolicyId(1));
    let routes = routes.expect("the policy");
    routes.site(Scheme::Https, NAME, PORT).expect("the site")
});

fuzz_target!(|bytes: &[u8]| {
    let Some(mut head) = parse(bytes) else { return };
    if check_authority(&SITE, &head).is_err() || check_head(&SITE, &head).is_err() {
        return;
    }
    let target = head
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut hosts = head.headers.get_all(HOST).iter();
    let header = hosts.next().map(http::HeaderValue::as_bytes);
    assert!(hosts.next().is_none(), "two hosts");
    assert!(target.or(header).is_some(), "no host");
    for name in target.into_iter().chain(header) {
        assert!(is_ours(name), "{:?}", String::from_utf8_lossy(name));
    }
    let path = head.uri.path();
    assert!(!path.split('/').any(|segment| segment == ".."), "{path}");

    strip_request(&mut head.headers);
    for hop in [
        "connection",
        "transfer-encoding",
        "upgrade",
        "proxy-authorization",
    ] {
        assert!(!head.headers.contains_key(hop), "{hop} goes along");
    }
    assert_eq!(
        head.headers.get(HOST).is_some(),
        header_was(bytes),
        "the host is kept"
    );
});

/// Whether the head has a Host field, by its text.
fn header_was(bytes: &[u8]) -> bool {
    parse(bytes).is_some_and(|head| head.headers.contains_key(HOST))
}

/// The way of hyper: httparse, and what `http` makes of it.
fn parse(bytes: &[u8]) -> Option<Parts> {
    let mut fields = [httparse::EMPTY_HEADER; limits::HEADERS];
    let mut parsed = httparse::Request::new(&mut fields);
    let end = parsed.parse(bytes).ok()?;
    if !end.is_complete() {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// Whether an authority means our site: the name, dots behind it, and the port or none.
fn is_ours(authority: &[u8]) -> bool {
    let Some((name, rest)) = authority.split_at_checked(NAME.len()) else {
        return false;
    };
    let dots = rest.iter().take_while(|byte| **byte == b'.').count();
    let port = match &rest[dots..] {
        [] | [b':'] => true,
        [b':', port @ ..] => std::str::from_utf8(port).is_ok_and(|port| port.parse() == Ok(PORT)),
        _ => false,
    };
    name.eq_ignore_ascii_case(NAME.as_bytes()) && port
}
