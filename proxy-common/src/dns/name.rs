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
    (hash ^ lower_case(byte)).wrapping_mul(PRIME)
}

/// `to_ascii_lowercase` without a branch, each of which doubles what the verifier looks at.
#[inline(always)]
fn lower_case(byte: u8) -> u64 {
    let byte = u64::from(byte);
    let from_a = byte.wrapping_sub(u64::from(b'A'));
    let after_z = byte.wrapping_sub(u64::from(b'Z') + 1);
    // The sign bits: not before A, and before what follows Z.
    let is_upper = (!from_a & after_z) >> 63;
    byte | is_upper << 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_have_the_lower_case_of_the_library() {
        for byte in 0..=u8::MAX {
            assert_eq!(lower_case(byte), u64::from(byte.to_ascii_lowercase()));
        }
    }
}
