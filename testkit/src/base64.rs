//! Base64, as far as headers and signed tokens need it.

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The form of HTTP headers, PEM and Secrets: padded.
pub fn encode(data: impl AsRef<[u8]>) -> String {
    let mut text = encode_with(data.as_ref(), STANDARD);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// The form of signed tokens: not padded.
pub fn encode_url(data: impl AsRef<[u8]>) -> String {
    encode_with(data.as_ref(), URL_SAFE)
}

fn encode_with(data: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for group in data.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=group.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(alphabet[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_vectors_of_the_standard() {
        for (plain, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain), expected);
            assert_eq!(encode_url(plain), expected.trim_end_matches('='));
        }
        assert_eq!(encode([0xfb, 0xff]), "+/8=");
        assert_eq!(encode_url([0xfb, 0xff]), "-_8");
    }
}
