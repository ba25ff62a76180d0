//! Names as 64 bits.
//!
//! FNV-1a over the wire form: each label with its length in front, without the root's zero,
//! upper case as lower case. Names that differ are labels that differ, so nothing has to be
//! said about dots inside a label.
//!
//! FNV is not collision resistant, and need not be: the hash selects, it does not authorise.
//! Who makes a name that collides with a Connector's has its own connections to that name's
//! addresses handed to Postern, which passes through what is not for the Connector's host. Two
//! hosts of one policy that collide by accident (1 in 2⁴³ for 2000 hosts) share what is
//! redirected for either of them.

/// Hash of the root, with which every name begins.
pub(super) const ROOT: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// Longest name in its wire form, the root's zero included.
pub(super) const LONGEST: usize = 255;
/// Longest label.
pub(super) const LONGEST_LABEL: u8 = 63;

/// Hash of a host as manifests write it; `None` if no DNS name can be meant.
pub fn hash(host: &str) -> Option<u64> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > LONGEST - 2 {
        return None;
    }
    let mut all = ROOT;
    for label in host.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if length == 0 || length > LONGEST_LABEL {
            return None;
        }
        all = label.bytes().fold(mix(all, length), mix);
    }
    Some(all)
}

/// Adds a byte of the wire form. Lengths are below the letters, so all bytes are treated alike.
#[inline(always)]
pub(super) fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(PRIME)
}
