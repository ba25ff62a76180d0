//! Paths as a server may read them, however they are written.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A path decoded once, with runs of slashes taken as one and without a slash at its end.
pub(crate) fn normal(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let segments: Vec<_> = decoded.split('/').filter(|it| !it.is_empty()).collect();
    format!("/{}", segments.join("/"))
}

/// Whether a path has a segment `.` or `..` (RFC 3986, section 3.3), percent-encoded or not,
/// behind a backslash or in front of a parameter.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    let decoded: Cow<'_, str> = percent_decode_str(path).decode_utf8_lossy();
    decoded
        .replace(['\\', ';'], "/")
        .split('/')
        .any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_through_encodings() {
        for path in [
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2f..%2fb",
            "/a/./b",
            "/a\\..\\b",
            "/a/..;x/b",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a/b", "/a..b/c", "/...", "/.well-known", "/a%252Fb"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn one_path_has_one_normal_form() {
        for path in ["/service/token", "/service//token/", "//service/%74oken"] {
            assert_eq!(normal(path), "/service/token", "{path}");
        }
        assert_eq!(normal("/"), "/");
        assert_ne!(normal("/service/token2"), "/service/token");
    }
}
