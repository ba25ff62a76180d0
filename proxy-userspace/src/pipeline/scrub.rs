//! What was injected does not come back in the head of an answer, nor in its trailers.
//!
//! Bodies are not searched. They are streamed, often compressed or in ranges, and a value may be
//! split or written in another way; what is taken out would break lengths, digests and
//! signatures. An upstream that has the credential and puts it into a body is trusted not to.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header::LOCATION};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::Caller;
use crate::{
    proxy::Worker,
    telemetry::Counters,
    upstream::{Body, HttpVersion},
    workload::Enrolment,
};

/// Removes echoes of what was injected from an answer's head and, as they come, its trailers.
pub(super) fn scrub(
    caller: &Caller,
    injected: &[HeaderValue],
    mut response: Response<Body>,
) -> Response<Body> {
    if injected.is_empty() {
        return response;
    }
    let scrubber = Scrubber {
        worker: Arc::clone(&caller.worker),
        workload: Arc::clone(&caller.workload),
        host: caller.site.host.clone(),
        injected: injected.to_vec(),
    };
    scrubber.apply(response.headers_mut());
    // On HTTP/1.1 only chunks have trailers.
    let has_length = response.body().size_hint().exact().is_some();
    if response.body().is_end_stream() || has_length && caller.version == HttpVersion::Http1 {
        return response;
    }
    response.map(|body| {
        let scrubbed = body.map_frame(move |frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                scrubber.apply(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        });
        scrubbed.boxed_unsync()
    })
}

/// What must not come back in an answer, and to whom.
struct Scrubber {
    worker: Arc<Worker>,
    workload: Arc<Enrolment>,
    host: String,
    injected: Vec<HeaderValue>,
}

impl Scrubber {
    fn apply(&self, fields: &mut HeaderMap) {
        for injected in &self.injected {
            let echoes = remove(fields, injected);
            if echoes.is_empty() {
                continue;
            }
            Counters::add(&self.worker.proxy.counters.scrubbed, echoes.len() as u64);
            tracing::warn!(
                workload = self.workload.name,
                host = self.host,
                ?echoes,
                "the upstream sent the injected credential back; removed these fields of its answer"
            );
        }
    }
}

/// Removes fields that contain an injected value, with or without its scheme, and names them.
///
/// `Location` stays: what an upstream signed for a redirect is for the client, and a changed
/// one leads nowhere.
fn remove(headers: &mut HeaderMap, injected: &HeaderValue) -> Vec<HeaderName> {
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
        let removed = remove(&mut headers, &injected);
        assert_eq!(removed, ["x-echo", "x-debug", "set-cookie"]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "location", "x-scheme"]);
    }
}
