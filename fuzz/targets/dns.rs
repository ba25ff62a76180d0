//! Any bytes as a DNS answer: reading them ends, and makes no address up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_common::dns::read;

/// First bytes of a v4-mapped address.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

fuzz_target!(|message: &[u8]| {
    let mut found = Vec::new();
    read(message, |_| true, |address| found.push(address));
    // At least 15 bytes of the message for each: an owner, the fixed fields and an address.
    assert!(found.len() <= message.len() / 15);
    for address in &found {
        let bytes = match address.strip_prefix(&MAPPED) {
            Some(v4) if !contains(message, address) => v4,
            _ => address.as_slice(),
        };
        assert!(contains(message, bytes), "{address:02x?} is made up");
    }
    // What is cut off the end takes nothing away that was whole, and adds nothing.
    let mut cut = Vec::new();
    read(
        &message[..message.len() / 2],
        |_| true,
        |address| cut.push(address),
    );
    assert!(found.starts_with(&cut));
});

fn contains(message: &[u8], bytes: &[u8]) -> bool {
    message.windows(bytes.len()).any(|some| some == bytes)
}
