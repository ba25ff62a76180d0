//! From files to API objects.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use proxy_common::api::{self, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::{Place, Problem, StateError};
use super::yaml::{self, Names};

/// Largest manifest file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// Namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// Standard input, read to its end.
    Stdin,
}

impl From<OsString> for Source {
    /// `-` is standard input.
    fn from(argument: OsString) -> Self {
        if argument == "-" {
            Self::Stdin
        } else {
            Self::Path(argument.into())
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// An object and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) place: Place,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) object: T,
}

/// Everything that was read, in order.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    pub(super) connectors: Vec<Placed<api::Connector>>,
    pub(super) classes: Vec<Placed<api::ConnectorClass>>,
    pub(super) secrets: Vec<Placed<api::Secret>>,
    /// Objects that are there but have faults: whoever refers to one must not be told that
    /// it is missing.
    pub(super) broken: HashSet<(Kind, String, String)>,
}

/// Kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Connector,
    ConnectorClass,
    Secret,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connector => "Connector",
            Self::ConnectorClass => "ConnectorClass",
            Self::Secret => "Secret",
        }
    }
}

impl Manifests {
    /// Reads one source; faults are added to `errors`.
    pub(super) fn read(&mut self, source: &Source, errors: &mut Vec<StateError>) {
        let file: Arc<str> = source.to_string().into();
        match read_text(source) {
            Ok(text) => self.read_text(&file, &text, errors),
            Err(problem) => {
                errors.push(StateError {
                    place: Place::file(&file),
                    field: String::new(),
                    problem,
                });
            }
        }
    }

    /// Reads the text of a file.
    pub(super) fn read_text(&mut self, file: &Arc<str>, text: &str, errors: &mut Vec<StateError>) {
        for document in yaml::documents(text) {
            let place = Place::document(file, document.number);
            match yaml::parse(&document) {
                Ok(mut value) => {
                    self.read_object(&place, "", &value, errors);
                    yaml::wipe(&mut value);
                }
                Err(problem) => errors.push(StateError {
                    place,
                    field: String::new(),
                    problem,
                }),
            }
        }
    }

    /// Reads one object, or those in a list; `prefix` is its path within the document.
    fn read_object(
        &mut self,
        place: &Place,
        prefix: &str,
        value: &Value,
        errors: &mut Vec<StateError>,
    ) {
        let mut fault = |field: &str, problem| {
            let field = yaml::join(prefix, field);
            errors.push(StateError {
                place: place.clone(),
                field,
                problem,
            });
        };
        if !value.is_object() {
            return fault("", Problem::NotAnObject);
        }
        let (Some(api_version), Some(kind)) = (text(value, "apiVersion"), text(value, "kind"))
        else {
            let absent = if text(value, "kind").is_none() {
                "kind"
            } else {
                "apiVersion"
            };
            return fault(absent, Problem::Missing);
        };
        match known_kind(api_version, kind) {
            Known::Object(kind) => self.read_known(kind, place, prefix, value, errors),
            Known::List => match value.get("items").and_then(Value::as_array) {
                Some(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let prefix = yaml::join(prefix, &format!("items[{index}]"));
                        self.read_object(place, &prefix, item, errors);
                    }
                }
                None => fault("items", Problem::Missing),
            },
            Known::OtherVersion => {
                let found = api_version.to_owned();
                fault(
                    "apiVersion",
                    Problem::OtherApiVersion {
                        found,
                        wanted: api::API_VERSION,
                    },
                );
            }
            Known::Other => tracing::warn!(
                file = %place.file,
                document = place.document,
                api_version,
                kind,
                "ignored: neither a Connector, a ConnectorClass nor a Secret"
            ),
        }
    }

    fn read_known(
        &mut self,
        kind: Kind,
        place: &Place,
        prefix: &str,
        value: &Value,
        errors: &mut Vec<StateError>,
    ) {
        let before = errors.len();
        let mut place = place.clone();
        let metadata = value.get("metadata");
        let name = metadata
            .and_then(|metadata| text(metadata, "name"))
            .unwrap_or_default();
        let namespace = match metadata.and_then(|metadata| text(metadata, "namespace")) {
            _ if kind == Kind::ConnectorClass => "",
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => DEFAULT_NAMESPACE,
        };
        if is_name(name) && (namespace.is_empty() || is_name(namespace)) {
            place.object = Some(title(kind, namespace, name));
        }
        let mut reader = Reader {
            place,
            prefix,
            namespace,
            name,
            errors,
        };
        match kind {
            Kind::Connector => {
                let read = reader.read(value, Names::Shown, |it: &api::Connector| &it.metadata);
                reader.keep(read, &mut self.connectors);
            }
            Kind::ConnectorClass => {
                let read =
                    reader.read(value, Names::Shown, |it: &api::ConnectorClass| &it.metadata);
                reader.keep(read, &mut self.classes);
            }
            Kind::Secret => {
                let read = reader.read(value, Names::Hidden, |it: &api::Secret| &it.metadata);
                reader.keep(read, &mut self.secrets);
            }
        }
        if errors.len() > before {
            self.broken
                .insert((kind, namespace.to_owned(), name.to_owned()));
        }
    }
}

/// Reads one object of a known kind.
struct Reader<'a> {
    place: Place,
    prefix: &'a str,
    namespace: &'a str,
    name: &'a str,
    errors: &'a mut Vec<StateError>,
}

impl Reader<'_> {
    fn read<T: DeserializeOwned>(
        &mut self,
        value: &Value,
        names: Names,
        metadata: fn(&T) -> &ObjectMeta,
    ) -> Option<T> {
        match yaml::read::<T>(value, names) {
            Ok(object) => {
                if metadata(&object).name.is_none() {
                    self.fault("metadata.name", Problem::Missing);
                } else if !is_name(self.name) {
                    self.fault("metadata.name", Problem::Name);
                } else if !self.namespace.is_empty() && !is_name(self.namespace) {
                    self.fault("metadata.namespace", Problem::Name);
                } else {
                    return Some(object);
                }
            }
            Err((field, problem)) => self.fault(&field, problem),
        }
        None
    }

    /// Adds an object to those of its kind, unless there is one of that name.
    fn keep<T>(&mut self, object: Option<T>, kept: &mut Vec<Placed<T>>) {
        let Some(object) = object else { return };
        let same = |it: &&Placed<T>| it.namespace == self.namespace && it.name == self.name;
        if let Some(first) = kept.iter().find(same) {
            let other = Place {
                object: None,
                ..first.place.clone()
            };
            return self.fault("", Problem::Duplicate { other });
        }
        kept.push(Placed {
            place: self.place.clone(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            object,
        });
    }

    fn fault(&mut self, field: &str, problem: Problem) {
        let field = yaml::join(self.prefix, field);
        self.errors.push(StateError {
            place: self.place.clone(),
            field,
            problem,
        });
    }
}

/// What an object is to us.
enum Known {
    Object(Kind),
    List,
    OtherVersion,
    Other,
}

fn known_kind(api_version: &str, kind: &str) -> Known {
    let group = api_version.split('/').next().unwrap_or_default();
    let origin = api::ORIGIN_API_VERSION
        .split('/')
        .next()
        .unwrap_or_default();
    match (api_version, kind) {
        ("v1", "Secret") => Known::Object(Kind::Secret),
        (api::API_VERSION, "Connector") => Known::Object(Kind::Connector),
        (api::API_VERSION, "ConnectorClass") => Known::Object(Kind::ConnectorClass),
        ("v1", "List" | "SecretList")
        | (api::API_VERSION, "ConnectorList" | "ConnectorClassList") => Known::List,
        (_, "Connector" | "ConnectorClass" | "ConnectorList" | "ConnectorClassList")
            if group == api::GROUP || group == origin || group == "v1" =>
        {
            Known::OtherVersion
        }
        _ => Known::Other,
    }
}

/// Kind, namespace and name as errors show them.
fn title(kind: Kind, namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        format!("{} {name}", kind.as_str())
    } else {
        format!("{} {namespace}/{name}", kind.as_str())
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// Longest name of an object, in bytes.
const MAX_NAME: usize = 253;

fn is_name(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= MAX_NAME
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

fn read_text(source: &Source) -> Result<Zeroizing<String>, Problem> {
    let bytes = match source {
        Source::Path(path) => File::open(path).and_then(read_bytes),
        Source::Stdin => read_bytes(io::stdin().lock()),
    };
    let mut bytes = bytes.map_err(|error| Problem::Unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Problem::TooLarge { limit: MAX_FILE });
    }
    // Moves the buffer, so that there is one copy to wipe.
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(Problem::NotText)
        }
    }
}

/// Reads at most one byte more than the limit.
fn read_bytes(reader: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
