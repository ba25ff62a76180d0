//! Which operation of the distribution specification a request is, and the scopes it needs.

use http::{Method, Uri};
use url::form_urlencoded;

/// Longest repository name that is taken for one; distribution's own limit.
const MAX_REPOSITORY: usize = 255;

/// One operation of the registry API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`.
    Ping,
    /// `/v2/<repository>/manifests/<reference>`.
    Manifest {
        /// Name of the repository.
        repository: String,
    },
    /// `/v2/<repository>/blobs/<digest>`.
    Blob {
        /// Name of the repository.
        repository: String,
    },
    /// `/v2/<repository>/blobs/uploads/…`.
    Upload {
        /// Name of the repository that is pushed to.
        repository: String,
        /// Which step of an upload.
        step: UploadStep,
    },
    /// `/v2/<repository>/tags/list`.
    Tags {
        /// Name of the repository.
        repository: String,
    },
    /// `/v2/<repository>/referrers/<digest>`.
    Referrers {
        /// Name of the repository.
        repository: String,
    },
    /// `/v2/_catalog`.
    Catalog,
    /// Something else below `/v2/`: authorized without a scope.
    Other,
    /// Not the registry API, or a path that cannot be read safely: never authorized.
    Outside,
}

/// Step of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadStep {
    /// POST that opens a session, or carries the whole blob (`?digest=`).
    Start,
    /// POST with `?mount=`: take the blob over from another repository.
    Mount {
        /// The other repository; without it the registry looks for one itself.
        from: Option<String>,
    },
    /// PATCH with a part of the blob.
    Chunk,
    /// PUT that closes the session.
    Commit,
    /// GET or HEAD: how much has arrived.
    Status,
    /// DELETE of the session.
    Cancel,
}

impl Route {
    /// Classifies a request by method, path and query; the host is not looked at.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let Some(segments) = segments(uri.path()) else {
            return Self::Outside;
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["v2"] | ["v2", ""] => Self::ping(method),
            ["v2", rest @ ..] => actions(method)
                .and_then(|_| Self::below_v2(method, uri, rest))
                .unwrap_or(Self::Other),
            _ => Self::Outside,
        }
    }

    fn ping(method: &Method) -> Self {
        if matches!(*method, Method::GET | Method::HEAD) {
            Self::Ping
        } else {
            Self::Other
        }
    }

    /// Read from the right, since a repository's name may contain `manifests` or `blobs`.
    fn below_v2(method: &Method, uri: &Uri, segments: &[&str]) -> Option<Self> {
        match segments {
            ["_catalog"] => Some(Self::Catalog),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                let step = if *method == Method::POST {
                    start(uri)
                } else {
                    return None;
                };
                Some(Self::Upload {
                    repository: repository(name)?,
                    step,
                })
            }
            [name @ .., "blobs", "uploads", _session] => Some(Self::Upload {
                repository: repository(name)?,
                step: session_step(method)?,
            }),
            [name @ .., "tags", "list"] => Some(Self::Tags {
                repository: repository(name)?,
            }),
            [name @ .., kind, reference] if is_reference(reference) => {
                let repository = repository(name)?;
                match *kind {
                    "manifests" => Some(Self::Manifest { repository }),
                    "blobs" => Some(Self::Blob { repository }),
                    "referrers" => Some(Self::Referrers { repository }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// A later step of an upload into `repository`, wherever the registry keeps its sessions.
    pub(super) fn upload_session(method: &Method, repository: &str) -> Option<Self> {
        Some(Self::Upload {
            repository: repository.to_owned(),
            step: session_step(method)?,
        })
    }

    /// The repository that the request is about.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Manifest { repository }
            | Self::Blob { repository }
            | Self::Upload { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository } => Some(repository),
            Self::Ping | Self::Catalog | Self::Other | Self::Outside => None,
        }
    }

    /// The repository that a mount takes its blob from.
    pub fn mount_source(&self) -> Option<&str> {
        match self {
            Self::Upload {
                step: UploadStep::Mount { from },
                ..
            } => from.as_deref(),
            _ => None,
        }
    }

    /// Whether it is a mount, with or without a source.
    pub fn is_mount(&self) -> bool {
        matches!(
            self,
            Self::Upload {
                step: UploadStep::Mount { .. },
                ..
            }
        )
    }

    /// The scopes to ask the token service for, derived from the method as distribution does.
    ///
    /// The one that the request itself is about comes first, because some registries look at
    /// the first only; that of a mount's source follows.
    pub fn scopes(&self, method: &Method) -> Vec<String> {
        if *self == Self::Catalog {
            return vec!["registry:catalog:*".to_owned()];
        }
        let Some((repository, actions)) = self.repository().zip(actions(method)) else {
            return Vec::new();
        };
        let own = format!("repository:{repository}:{actions}");
        let source = self
            .mount_source()
            .map(|from| format!("repository:{from}:pull"));
        std::iter::once(own).chain(source).collect()
    }
}

fn actions(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET | Method::HEAD => Some("pull"),
        Method::POST | Method::PUT | Method::PATCH => Some("pull,push"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

fn start(uri: &Uri) -> UploadStep {
    let query = uri.query().unwrap_or_default().as_bytes();
    let find = |key| {
        form_urlencoded::parse(query)
            .find(|(k, _)| k == key)
            .map(|(_, value)| value)
    };
    if find("mount").is_none_or(|digest| digest.is_empty()) {
        return UploadStep::Start;
    }
    let from = find("from").and_then(|from| repository(&from.split('/').collect::<Vec<_>>()));
    UploadStep::Mount { from }
}

fn session_step(method: &Method) -> Option<UploadStep> {
    match *method {
        Method::PATCH => Some(UploadStep::Chunk),
        Method::PUT => Some(UploadStep::Commit),
        Method::GET | Method::HEAD => Some(UploadStep::Status),
        Method::DELETE => Some(UploadStep::Cancel),
        _ => None,
    }
}

/// The name that `components` make; `None` when it could mean something else in a scope.
///
/// Wider than the specification's grammar, because registries are (upper case, `host:port` in
/// a name), but without the characters that separate scopes and actions.
fn repository(components: &[&str]) -> Option<String> {
    let is_component = |component: &&str| {
        !matches!(*component, "" | "." | "..")
            && component
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
    };
    let length = components
        .iter()
        .map(|component| component.len() + 1)
        .sum::<usize>();
    let fits = (2..=MAX_REPOSITORY + 1).contains(&length);
    (fits && components.iter().all(is_component)).then(|| components.join("/"))
}

/// A tag or a digest.
fn is_reference(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-:+=".contains(&b))
}

/// The decoded segments of an absolute path; `None` when servers may disagree about what it
/// means: dot segments, encoded separators, double encoding, broken escapes.
fn segments(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?
        .split('/')
        .map(decode_segment)
        .collect()
}

fn decode_segment(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, tail) {
            let (high, low) = (
                char::from(*high).to_digit(16)?,
                char::from(*low).to_digit(16)?,
            );
            decoded.push(u8::try_from(high * 16 + low).ok()?);
            rest = after;
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    let decoded = String::from_utf8(decoded).ok()?;
    let ambiguous = matches!(decoded.as_str(), "." | "..")
        || decoded.contains(|c: char| matches!(c, '/' | '\\' | '%' | '?' | '#') || c.is_control());
    (!ambiguous).then_some(decoded)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
