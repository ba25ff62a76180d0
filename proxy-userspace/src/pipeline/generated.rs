//! Credentials that a class's generator makes: into the header, the query or the body.

use std::fmt::Display;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    gate::{Refusal, Target},
    limits,
    state::generator::{BodyKind, Field, Generated, Injection, Request},
    upstream::{self, Body},
};

/// Shortest value of a header that is taken for a secret: a generator may also set such as
/// `1` or `true`.
const SECRET_BYTES: usize = 8;

/// Adds to a request what its generator makes. Returns what must not come back in the head of the
/// answer.
pub(super) async fn inject(
    target: &Target,
    generated: &Generated,
    head: &mut Parts,
    body: &mut Option<Body>,
) -> Result<Vec<HeaderValue>, Refusal> {
    let mut taken = None;
    if generated.needs_body() && is_of(BodyKind::Json, &head.headers) {
        taken = Some(take(target, &head.headers, body).await?);
    }
    let object: Option<Map<String, Value>> = taken
        .as_ref()
        .and_then(|bytes| serde_json::from_slice(bytes).ok());
    let host = target.endpoint.address.authority();
    let request = Request {
        method: &head.method,
        host: &host,
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &head.headers,
        body: object.as_ref(),
    };
    let injection = generated.injection(&request).map_err(|error| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "connector {} has no credential for this request: the generator of class {} \
                 {error}",
                target.connector, target.connector.class
            ),
        )
    })?;
    let mut secrets = Vec::new();
    let changed = match &*injection {
        Injection::Header(fields) => {
            for (name, value) in fields {
                head.headers.insert(name, value.clone());
                if value.len() >= SECRET_BYTES {
                    secrets.push(value.clone());
                }
            }
            None
        }
        Injection::Query(parameters) => {
            head.uri = with_query(&head.uri, parameters).ok_or_else(|| too_long(target))?;
            None
        }
        Injection::Body { kind, fields } => {
            let bytes = match taken.take() {
                Some(bytes) => bytes,
                None => take(target, &head.headers, body).await?,
            };
            Some(add(&target.connector, head, *kind, &bytes, fields)?)
        }
    };
    if let Some(bytes) = changed.or(taken) {
        // What was sent in chunks has a length now.
        if !bytes.is_empty() || head.headers.contains_key(CONTENT_LENGTH) {
            head.headers.insert(CONTENT_LENGTH, bytes.len().into());
        }
        *body = Some(upstream::full(bytes));
    }
    Ok(secrets)
}

/// Takes the whole body, within the limits.
async fn take(
    target: &Target,
    headers: &HeaderMap,
    body: &mut Option<Body>,
) -> Result<Bytes, Refusal> {
    let refusal = |status, what: String| {
        let connector = &target.connector;
        Refusal::new(
            status,
            format!("the credential of connector {connector} depends on the body, {what}"),
        )
    };
    let coded = headers.get(CONTENT_ENCODING);
    if coded.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let what = "which is compressed; send it without Content-Encoding";
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, what.to_owned()));
    }
    let Some(unread) = body.as_mut().filter(|body| !body.is_end_stream()) else {
        return Ok(Bytes::new());
    };
    let whole = Limited::new(unread, limits::GENERATOR_BODY).collect();
    match timeout(limits::GENERATOR_BODY_TIME, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let limit = limits::GENERATOR_BODY / 1024;
            let what = format!("which is larger than {limit} KiB; send less at once");
            Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, what))
        }
        Ok(Err(_)) => {
            let what = "which broke off; send it again".to_owned();
            Err(refusal(StatusCode::BAD_REQUEST, what))
        }
        Err(_) => {
            let what = "which did not come in time; send it faster".to_owned();
            Err(refusal(StatusCode::REQUEST_TIMEOUT, what))
        }
    }
}

/// The body with fields added, in place of the client's own of the same names.
fn add(
    connector: &impl Display,
    head: &mut Parts,
    kind: BodyKind,
    body: &[u8],
    fields: &[(String, Field)],
) -> Result<Bytes, Refusal> {
    if !body.is_empty() && !is_of(kind, &head.headers) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "the credential of connector {connector} goes into the body, which has to be {}",
                kind.media_type()
            ),
        ));
    }
    let changed = match kind {
        BodyKind::Json => {
            let mut object: Map<String, Value> = if body.is_empty() {
                Map::new()
            } else {
                serde_json::from_slice(body).map_err(|_| {
                    Refusal::new(
                        StatusCode::BAD_REQUEST,
                        format!(
                            "the credential of connector {connector} goes into the body, which \
                             has to be a JSON object"
                        ),
                    )
                })?
            };
            for (key, field) in fields {
                let value = match field {
                    Field::Text(text) => Value::String(text.to_string()),
                    Field::Literal(literal) => serde_json::from_str(literal).unwrap_or_default(),
                };
                object.insert(key.clone(), value);
            }
            Value::Object(object).to_string()
        }
        BodyKind::Form => {
            let own = String::from_utf8_lossy(body);
            let parameters = fields.iter().map(|(key, field)| {
                let text = match field {
                    Field::Text(text) => text.clone(),
                    Field::Literal(literal) => Zeroizing::new(literal.clone()),
                };
                (key.clone(), text)
            });
            replaced(&own, &parameters.collect::<Vec<_>>())
        }
    };
    if head.method == Method::GET || !head.headers.contains_key(CONTENT_TYPE) {
        let kind = HeaderValue::from_static(kind.media_type());
        head.headers.insert(CONTENT_TYPE, kind);
    }
    Ok(Bytes::from(changed))
}

fn is_of(kind: BodyKind, headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let essence = given.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| it.trim().eq_ignore_ascii_case(kind.media_type()))
}

/// The same address with other parameters; `None` when it is too long.
fn with_query(uri: &Uri, parameters: &[(String, Zeroizing<String>)]) -> Option<Uri> {
    let query = replaced(uri.query().unwrap_or_default(), parameters);
    let mut parts = uri.clone().into_parts();
    let target = Zeroizing::new(format!("{}?{query}", uri.path()));
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// A query with these parameters in place of its own of the same names; what else is in it
/// stays as it was written.
fn replaced(query: &str, parameters: &[(String, Zeroizing<String>)]) -> String {
    let is_replaced = |pair: &str| {
        let key = form_urlencoded::parse(pair.as_bytes()).next();
        key.is_some_and(|(key, _)| parameters.iter().any(|(name, _)| *name == key))
    };
    let mut kept: Vec<&str> = query.split('&').filter(|pair| !is_replaced(pair)).collect();
    kept.retain(|pair| !pair.is_empty());
    let mut encoder = form_urlencoded::Serializer::new(String::new());
    for (key, value) in parameters {
        encoder.append_pair(key, value);
    }
    let added = encoder.finish();
    kept.push(&added);
    kept.join("&")
}

fn too_long(target: &Target) -> Refusal {
    let connector = &target.connector;
    Refusal::new(
        StatusCode::URI_TOO_LONG,
        format!("there is no room in the address for the credential of connector {connector}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Vec<(String, Zeroizing<String>)> {
        let own = |(key, value): &(&str, &str)| ((*key).into(), Zeroizing::new((*value).into()));
        pairs.iter().map(own).collect()
    }

    fn added(kind: BodyKind, content_type: Option<&str>, body: &str) -> Result<String, u16> {
        let mut request = http::Request::post("/");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        let text = |text: &str| Field::Text(Zeroizing::new(text.to_owned()));
        let fields = [
            ("key".to_owned(), text("a \"b\"&")),
            ("n".to_owned(), Field::Literal("7".to_owned())),
        ];
        let bytes = add(&"team/c", &mut head, kind, body.as_bytes(), &fields);
        let bytes = bytes.map_err(|refusal| refusal.status.as_u16())?;
        assert!(is_of(kind, &head.headers));
        Ok(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[test]
    fn fields_are_merged_into_bodies_of_their_kind_alone() {
        use BodyKind::{Form, Json};
        let json = "application/json; charset=utf-8";
        let form = "application/x-www-form-urlencoded";
        for (kind, content_type, body, expected) in [
            (Json, None, "", Ok(r#"{"key":"a \"b\"&","n":7}"#)),
            (
                Json,
                Some(json),
                r#"{"key":1,"z":[1,{"key":2}]}"#,
                Ok(r#"{"key":"a \"b\"&","n":7,"z":[1,{"key":2}]}"#),
            ),
            (Json, Some(json), "[1]", Err(400)),
            (Json, Some(json), "{", Err(400)),
            (Json, Some(form), "a=1", Err(415)),
            (Json, None, "{}", Err(415)),
            (
                Form,
                Some(form),
                "a=%7e&key=x",
                Ok("a=%7e&key=a+%22b%22%26&n=7"),
            ),
            (Form, None, "", Ok("key=a+%22b%22%26&n=7")),
            (Form, Some(json), "{}", Err(415)),
        ] {
            let found = added(kind, content_type, body);
            let found = found.as_deref().map_err(|status| *status);
            assert_eq!(found, expected, "{kind:?} {content_type:?} {body}");
        }
    }

    #[test]
    fn parameters_replace_those_of_the_client_and_no_others() {
        let key = parameters(&[("key", "a b&c")]);
        for (uri, expected) in [
            ("https://api.test/x", "https://api.test/x?key=a+b%26c"),
            ("https://api.test/x?", "https://api.test/x?key=a+b%26c"),
            (
                "https://api.test/x?a=%7e&key=own&k%65y=own&key&b",
                "https://api.test/x?a=%7e&b&key=a+b%26c",
            ),
        ] {
            let uri: Uri = uri.parse().expect("an address");
            let changed = with_query(&uri, &key).expect("room");
            assert_eq!(changed.to_string(), expected);
        }
        let long = parameters(&[("key", &"x".repeat(70_000))]);
        let uri = Uri::from_static("https://api.test/");
        assert!(with_query(&uri, &long).is_none());
    }
}
