//! What was injected does not come back in the head of an answer.

use http::{HeaderMap, HeaderName, HeaderValue, header::LOCATION};

/// Removes fields that contain an injected value, with or without its scheme, and names them.
///
/// `Location` stays: what an upstream signed for a redirect is for the client, and a changed
/// one leads nowhere.
pub(super) fn scrub(headers: &mut HeaderMap, injected: &HeaderValue) -> Vec<HeaderName> {
    let whole = injected.as_bytes();
    let secret = match whole.iter().position(|byte| *byte == b' ') {
        Some(space) => whole[space..].trim_ascii(),
        None => whole,
    };
    if secret.is_empty() {
        return Vec::new();
    }
    let mut echoes: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| *name != LOCATION && contains(value.as_bytes(), secret))
        .map(|(name, _)| name.clone())
        .collect();
    echoes.dedup();
    for name in &echoes {
        headers.remove(name);
    }
    echoes
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    // Most fields are shorter than a credential.
    text.len() >= part.len() && text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_of_a_credential_are_removed_and_nothing_else() {
        let injected = HeaderValue::from_static("Bearer t0ken-of-a-service");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-echo", "Bearer t0ken-of-a-service"),
            ("x-debug", "auth=[t0ken-of-a-service];"),
            ("set-cookie", "a=b"),
            ("set-cookie", "t=t0ken-of-a-service"),
            ("x-scheme", "Bearer"),
            (
                "location",
                "https://storage.example.com/?t=t0ken-of-a-service",
            ),
            ("content-type", "text/plain"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let removed = scrub(&mut headers, &injected);
        assert_eq!(removed, ["x-echo", "x-debug", "set-cookie"]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "location", "x-scheme"]);
    }
}
