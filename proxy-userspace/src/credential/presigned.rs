//! Requests that carry their authorization in the URL already.

use http::Uri;
use url::form_urlencoded;

/// Query keys of URLs signed for S3 (versions 4 and 2), Google Cloud Storage, Azure Blob
/// Storage and content delivery networks.
const SIGNATURE_KEYS: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "Signature",
    "sig",
    "AWSAccessKeyId",
];

/// Whether `uri` is presigned, so that nothing may be injected into a request to it.
///
/// Object storage answers 400 ("only one auth mechanism allowed") when a request is
/// authorized by its URL and by a header at once. Keys are compared without regard to case:
/// a false positive costs the client an injection, a false negative breaks its download.
pub fn is_presigned(uri: &Uri) -> bool {
    let Some(query) = uri.query() else {
        return false;
    };
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| {
        SIGNATURE_KEYS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(&key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presigned_urls_of_each_storage_are_recognised() {
        for uri in [
            "https://s3.example.com/b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c",
            "https://s3.example.com/b?x=1&X-Amz-Signature=ab",
            "https://s3.example.com/b?AWSAccessKeyId=k&Expires=1&Signature=ab%3D",
            "https://gcs.example.com/b?X-Goog-Signature=ab",
            "https://blob.example.com/b?sv=2024&sig=ab",
            "/b?x-amz-signature=ab",
            "/b?X-Amz%2DSignature=ab",
        ] {
            assert!(is_presigned(&uri.parse().unwrap()), "{uri}");
        }
    }

    #[test]
    fn similar_words_elsewhere_in_a_url_are_no_signature() {
        for uri in [
            "/v2/signature/manifests/sig",
            "/v2/a/blobs/uploads/1?digest=sha256:ab&_state=sig",
            "/v2/a/tags/list?last=Signature&n=1",
            "/v2/a/manifests/latest?ns=registry.example.com",
            "/?signatures=1&design=2",
        ] {
            assert!(!is_presigned(&uri.parse().unwrap()), "{uri}");
        }
    }
}
