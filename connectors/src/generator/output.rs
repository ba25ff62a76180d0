//! What a generator returned, as far as a request can carry it.

use std::fmt;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};
use regorus::Value;
use zeroize::Zeroizing;

use super::GeneratorError;
use crate::limits;

/// What is added to a request. Each key replaces what the client sent under it.
#[derive(Clone)]
pub enum Injection {
    /// Header fields.
    Header(Vec<(HeaderName, HeaderValue)>),
    /// Parameters of the query, not encoded.
    Query(Vec<(String, Zeroizing<String>)>),
    /// Fields of the body.
    Body {
        /// What the body is.
        kind: BodyKind,
        /// The fields.
        fields: Vec<(String, Field)>,
    },
}

/// Bodies that fields can be added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/json`: an object.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// A value of a body.
#[derive(Clone)]
pub enum Field {
    /// Text.
    Text(Zeroizing<String>),
    /// A number, a Boolean or null, as JSON.
    Literal(String),
}

impl BodyKind {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        [Self::Json, Self::Form]
            .into_iter()
            .find(|kind| kind.media_type().eq_ignore_ascii_case(essence))
    }
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Header(_) => "Header",
            Self::Query(_) => "Query",
            Self::Body { .. } => "Body",
        };
        f.debug_struct(name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").finish_non_exhaustive()
    }
}

/// Fields that are about one connection, say where a request goes or where it ends
/// (RFC 9110, sections 7.2, 7.6.1 and 8.6).
const RESERVED: [HeaderName; 12] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

impl Injection {
    /// Reads the value of `auth`.
    pub(super) fn read(value: &Value) -> Result<Self, GeneratorError> {
        if *value == Value::Undefined {
            return Err(GeneratorError::Undefined);
        }
        let object = value
            .as_object()
            .map_err(|_| wrong("returns an `auth` that is no object"))?;
        let (mut position, mut media_type, mut auth) = (None, None, None);
        for (key, value) in object.iter() {
            let slot = match key.as_string().map(|it| &**it) {
                Ok("position") => &mut position,
                Ok("contentType") => &mut media_type,
                Ok("auth") => &mut auth,
                _ => {
                    return Err(wrong(
                        "returns an `auth` with other keys than `position`, `contentType` and \
                         `auth`",
                    ));
                }
            };
            *slot = Some(value);
        }
        let entries = entries(auth)?;
        let position = position.and_then(|it| it.as_string().ok());
        match position.map(|it| &**it) {
            Some("header") => entries.into_iter().map(header).collect(),
            Some("query") => entries.into_iter().map(parameter).collect(),
            Some("body") => {
                let kind = match media_type {
                    None => Some(BodyKind::Json),
                    Some(text) => text.as_string().ok().and_then(|it| BodyKind::parse(it)),
                };
                let kind = kind.ok_or_else(|| {
                    wrong(
                        "returns a `contentType` other than application/json and \
                         application/x-www-form-urlencoded",
                    )
                })?;
                let fields = entries.into_iter().map(field).collect::<Result<_, _>>()?;
                Ok(Self::Body { kind, fields })
            }
            _ => Err(wrong(
                "returns a `position` other than \"header\", \"query\" and \"body\"",
            )),
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Injection {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: T) -> Self {
        Self::Header(fields.into_iter().collect())
    }
}

impl FromIterator<(String, Zeroizing<String>)> for Injection {
    fn from_iter<T: IntoIterator<Item = (String, Zeroizing<String>)>>(parameters: T) -> Self {
        Self::Query(parameters.into_iter().collect())
    }
}

/// The entries of `auth.auth`, within the limits.
fn entries(auth: Option<&Value>) -> Result<Vec<(&str, &Value)>, GeneratorError> {
    let object = auth
        .and_then(|it| it.as_object().ok())
        .filter(|it| !it.is_empty())
        .ok_or_else(|| wrong("returns no object with entries as `auth.auth`"))?;
    if object.len() > limits::GENERATED_FIELDS {
        return Err(wrong(&format!(
            "returns more than {} entries in `auth.auth`",
            limits::GENERATED_FIELDS
        )));
    }
    let mut size = 0;
    let mut entries = Vec::with_capacity(object.len());
    for (key, value) in object.iter() {
        let key = key
            .as_string()
            .map_err(|_| wrong("returns an `auth.auth` with a key that is no text"))?;
        size += key.len() + value.as_string().map_or(0, |text| text.len());
        entries.push((&**key, value));
    }
    if size > limits::GENERATED {
        return Err(wrong(&format!(
            "returns more than {} KiB",
            limits::GENERATED / 1024
        )));
    }
    Ok(entries)
}

fn text(value: &Value) -> Result<&str, GeneratorError> {
    value
        .as_string()
        .map(|it| &**it)
        .map_err(|_| wrong("returns a value that is no text: use sprintf or format_int"))
}

fn header((key, value): (&str, &Value)) -> Result<(HeaderName, HeaderValue), GeneratorError> {
    let name = HeaderName::from_bytes(key.as_bytes())
        .map_err(|_| wrong("returns a key that is no name of a header"))?;
    if RESERVED.contains(&name) {
        return Err(wrong(&format!(
            "sets the header {name}, which is not a generator's: leave it out"
        )));
    }
    let text = text(value)?;
    if text.len() > limits::CREDENTIAL {
        return Err(wrong(&format!(
            "returns a header that is longer than {} KiB",
            limits::CREDENTIAL / 1024
        )));
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        wrong("returns a header with a control character or a line break in it: remove it")
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn parameter((key, value): (&str, &Value)) -> Result<(String, Zeroizing<String>), GeneratorError> {
    let text = text(value)?;
    if key.is_empty() || key.chars().chain(text.chars()).any(char::is_control) {
        return Err(wrong(
            "returns a query parameter without a name, or with a control character in it",
        ));
    }
    Ok((key.to_owned(), Zeroizing::new(text.to_owned())))
}

fn field((key, value): (&str, &Value)) -> Result<(String, Field), GeneratorError> {
    let field = match value {
        Value::String(text) => Field::Text(Zeroizing::new((**text).to_owned())),
        Value::Number(_) | Value::Bool(_) | Value::Null => Field::Literal(value.to_string()),
        _ => {
            return Err(wrong(
                "returns a value for the body that is no text, number, Boolean or null",
            ));
        }
    };
    Ok((key.to_owned(), field))
}

fn wrong(what: &str) -> GeneratorError {
    GeneratorError::Output(what.to_owned())
}
