//! What can be wrong with manifests, said so that it can be put right.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::{AddressError, CertificateFault, limits};

/// Where a fault is: file, document, object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named; `standard input` for `-`. Empty for an object of a cluster.
    pub file: Arc<str>,
    /// Number of the YAML document in the file, from 1; `None` for the file as a whole.
    pub document: Option<usize>,
    /// Kind, namespace and name, as far as they are known.
    pub object: Option<String>,
}

impl Place {
    /// An object of a cluster; the namespace is empty for those without one.
    pub(super) fn of(kind: &str, namespace: &str, name: &str) -> Self {
        let slash = if namespace.is_empty() { "" } else { "/" };
        Self {
            object: Some(format!("{kind} {namespace}{slash}{name}")),
            ..Self::file(&"".into())
        }
    }

    /// A file as a whole.
    pub(super) fn file(file: &Arc<str>) -> Self {
        Self {
            file: Arc::clone(file),
            document: None,
            object: None,
        }
    }

    /// One document of a file.
    pub(super) fn document(file: &Arc<str>, document: usize) -> Self {
        Self {
            document: Some(document),
            ..Self::file(file)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        match &self.object {
            Some(object) if self.file.is_empty() => f.write_str(object),
            Some(object) => write!(f, ", {object}"),
            None => Ok(()),
        }
    }
}

/// One fault of the manifests. Its text never has a value of a Secret in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}{}{field}: {problem}", if field.is_empty() { "" } else { ", " })]
pub struct StateError {
    /// Where it is.
    pub place: Place,
    /// Path of the field, such as `spec.auth.name`; empty for the object as a whole.
    pub field: String,
    /// What is wrong, and what to do about it.
    pub problem: Problem,
}

/// What is wrong with a field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The file cannot be read; holds the system's words.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is too large.
    #[error("is larger than {limit} bytes: split it")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The file is not text.
    #[error("is not UTF-8 text")]
    NotText,
    /// The document is not YAML.
    #[error("line {line}, column {column}: {fault}")]
    Yaml {
        /// Line in the file, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong; never the parser's own words, which may quote the line.
        fault: YamlFault,
    },
    /// A document that is not a mapping.
    #[error("must be a Kubernetes object, that is a mapping with apiVersion, kind and metadata")]
    NotAnObject,
    /// A field that the schema does not have.
    #[error("unknown field{}: leave it out, or correct it to one of {}",
        .name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default(), .expected.join(", "))]
    UnknownField {
        /// Its name, where that can be no secret.
        name: Option<String>,
        /// The fields there are.
        expected: Vec<String>,
    },
    /// A field that must be there.
    #[error("is missing: add it")]
    Missing,
    /// A field that must be there; holds what it is for.
    #[error("is missing: {0}")]
    MissingFor(String),
    /// A value of another type.
    #[error("must be {expected}, not {found}{}", if .expected == "a string" { ": put it in quotes" } else { "" })]
    WrongType {
        /// The type wanted.
        expected: String,
        /// The type found.
        found: String,
    },
    /// A word outside the vocabulary.
    #[error("must be one of {}", .expected.join(", "))]
    UnknownValue {
        /// The vocabulary.
        expected: Vec<String>,
    },
    /// A value that does not fit in a way that has no better words.
    #[error("does not fit the schema of its kind")]
    Malformed,
    /// Objects written for the group whose schema this one follows.
    #[error("`{found}` is not read: change it to {wanted}; the other fields stay as they are")]
    OtherApiVersion {
        /// The `apiVersion` found.
        found: String,
        /// The `apiVersion` wanted.
        wanted: &'static str,
    },
    /// A name that Kubernetes would refuse.
    #[error("must be lower-case letters, digits, `-` and `.`, with a letter or digit at both ends")]
    Name,
    /// A second object of the same kind and name.
    #[error("is given twice: the other one is in {other}; remove one")]
    Duplicate {
        /// Where the first one is.
        other: Place,
    },
    /// No Connector in all that was read.
    #[error("has no Connector in it: add one")]
    NoConnector,
    /// `spec.address` or an extension.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// Two Connectors for one address.
    #[error(
        "leads to the same host, port and path as {other}: one address can have one Connector only"
    )]
    AddressTaken {
        /// The other object and where it is.
        other: String,
    },
    /// A reference to nothing; holds the sentence.
    #[error("{0}")]
    Reference(String),
    /// A rule about fields that fit the schema; holds the sentence.
    #[error("{0}")]
    Rule(String),
    /// A part of the schema that this version does not act on.
    #[error("{what} is not supported yet: {instead}")]
    Unsupported {
        /// What is not.
        what: String,
        /// What is.
        instead: &'static str,
    },
    /// A value of a Secret.
    #[error("{0}")]
    SecretValue(SecretFault),
    /// The certificate or the key of a Secret.
    #[error("{0}")]
    Certificate(CertificateFault),
}

/// What is wrong with the YAML.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum YamlFault {
    /// A key twice in one mapping; holds it where it is a field of the schema.
    #[error("{} is given twice in one mapping: keep one of them",
        .0.map_or("a key".to_owned(), |key| format!("`{key}`")))]
    DuplicateKey(Option<&'static str>),
    /// An alias without its anchor.
    #[error("an alias names an anchor that is not in the document")]
    UnknownAnchor,
    /// A number beyond all bounds, such as a token that happens to read `7e999`.
    #[error("this reads as a number out of range: put it in quotes if it is text")]
    Number,
    /// Aliases that multiply, or too much of anything.
    #[error("the document is nested or expanded beyond the limits")]
    Limits,
    /// All else.
    #[error(
        "this is not valid YAML: check the indentation, quotes and colons here and just before"
    )]
    Syntax,
}

/// What is wrong with a value of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SecretFault {
    /// `data` holds base64.
    #[error("is not base64: encode it, or move it to stringData, which takes it as it is")]
    Base64,
    /// Text is needed.
    #[error("is not UTF-8 text, so no header can carry it")]
    NotUtf8,
    /// The classic of `echo secret | base64`.
    #[error(
        "ends in a newline, which no header can carry: write it without one (`printf %s` \
         instead of `echo`, and in YAML a plain value instead of a `|` block)"
    )]
    TrailingNewline,
    /// No header takes it.
    #[error(
        "is longer than {} bytes, which is more than servers accept in a header",
        limits::CREDENTIAL
    )]
    TooLong,
    /// Control characters elsewhere.
    #[error("has a control character in it, which no header can carry: remove it")]
    ControlCharacter,
    /// Nothing.
    #[error("is empty: give it a value")]
    Empty,
    /// RFC 7617 has no way to escape one.
    #[error("has a `:` in it, which HTTP Basic authentication cannot carry in a user name")]
    Colon,
    /// RFC 6750's alphabet.
    #[error("has a character that a token cannot have: only visible ASCII, no spaces")]
    TokenCharacter,
    /// Not what `docker login` writes.
    #[error(
        "is not a Docker configuration: it must be JSON with `auths`, and each `auth` in it \
         base64 of user:password"
    )]
    DockerConfig,
}

/// Everything that is wrong with the manifests, in the order of the files. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadErrors(Vec<StateError>);

impl LoadErrors {
    /// `None` when there is nothing wrong.
    pub(super) fn new(errors: Vec<StateError>) -> Option<Self> {
        let mut distinct: Vec<StateError> = Vec::with_capacity(errors.len());
        for error in errors {
            // A Secret with a fault is met once for each Connector that uses it.
            if !distinct.contains(&error) {
                distinct.push(error);
            }
        }
        (!distinct.is_empty()).then_some(Self(distinct))
    }

    /// The faults one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, StateError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a LoadErrors {
    type Item = &'a StateError;
    type IntoIter = std::slice::Iter<'a, StateError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for LoadErrors {
    /// One fault a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

/// Collects the faults of one object.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    place: &'a Place,
    errors: &'a mut Vec<StateError>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(place: &'a Place, errors: &'a mut Vec<StateError>) -> Self {
        Self { place, errors }
    }

    /// Notes a fault of the object.
    pub(super) fn add(&mut self, field: impl Into<String>, problem: Problem) {
        self.add_at(self.place.clone(), field, problem);
    }

    /// Notes a fault of another object that this one depends on.
    pub(super) fn add_at(&mut self, place: Place, field: impl Into<String>, problem: Problem) {
        self.errors.push(StateError {
            place,
            field: field.into(),
            problem,
        });
    }
}
