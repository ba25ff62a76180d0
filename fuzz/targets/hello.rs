//! Any bytes as the first ones of a connection: looking at them ends, makes no name up, and says
//! the same however much is there already. So does looking at a beginning that has to do.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use postern::detect::{Protocol, inspect, inspect_beginning};

/// Bytes before what a record of TLS carries (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;

fuzz_target!(|bytes: &[u8]| {
    let whole = inspect(bytes);
    for end in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        if let ControlFlow::Break(early) = inspect(&bytes[..end]) {
            assert_eq!(ControlFlow::Break(early), whole, "after {end} bytes");
        }
    }
    match whole {
        ControlFlow::Break(Protocol::Tls { sni, alpn }) => {
            let message = joined(bytes);
            if let Some(name) = sni {
                assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
                assert!(contains(&message, name.as_bytes()), "{name} is made up");
            }
            for protocol in alpn {
                assert!(contains(&message, &protocol), "{protocol:?} is made up");
            }
        }
        ControlFlow::Break(Protocol::Http1 { host }) => {
            let host = host.unwrap_or_default();
            assert!(contains(bytes, host.as_bytes()), "{host} is made up");
        }
        ControlFlow::Break(Protocol::H2c) => assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n")),
        ControlFlow::Continue(()) | ControlFlow::Break(Protocol::Opaque) => {}
    }
    match inspect_beginning(bytes) {
        Protocol::Http1 { host } => {
            let host = host.unwrap_or_default();
            assert!(contains(bytes, host.as_bytes()), "{host} is made up");
        }
        Protocol::Opaque => {}
        other => panic!("{other:?} from a beginning alone"),
    }
});

/// What the records carry, without their headers.
fn joined(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (carried, after) = rest.split_at(length.min(rest.len()));
        message.extend(carried);
        bytes = after;
    }
    message
}

fn contains(message: &[u8], bytes: &[u8]) -> bool {
    let same = |some: &[u8]| some.eq_ignore_ascii_case(bytes);
    bytes.is_empty() || message.windows(bytes.len()).any(same)
}
