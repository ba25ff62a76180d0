//! A client's request on its way to the registry, possibly more than once.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Method, Uri};
use url::form_urlencoded;

use super::cache::Token;
use super::demand::Learned;
use super::error::OciError;
use super::flight::Flight;
use super::route::Route;

/// One client request and what was tried for it; made once per request.
pub struct Attempt {
    method: Method,
    uri: Uri,
    pub(super) route: Route,
    pub(super) mount: Mount,
    pub(super) repeated: bool,
    pub(super) used: Used,
}

/// How far a cross-repository mount has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mount {
    /// With the source's scope, or no mount at all.
    Full,
    /// The source's scope is no longer asked for.
    WithoutSourceScope,
    /// An ordinary upload instead.
    GivenUp,
}

/// What the request was last sent with.
pub(super) enum Used {
    /// Not sent yet, or not authorized by us.
    Unknown,
    /// Nothing, since the registry asked for nothing.
    Nothing(Arc<Learned>),
    /// The Connector's credential itself.
    Credential(Arc<Learned>),
    /// A token.
    Token {
        learned: Arc<Learned>,
        flight: Arc<Flight<Token>>,
        token: Arc<Token>,
    },
}

/// What to do about a 401 or 403 of the registry.
#[derive(Debug)]
pub enum Rejection {
    /// Authorize the attempt again and send it to its [`Attempt::uri`], which may have
    /// changed: a mount is given up by leaving it out. Only when no byte of the client's body
    /// has been read; otherwise answer [`repeat_request`](super::answer::repeat_request).
    Repeat,
    /// Answer [`failure`](super::answer::failure); repeating would not help.
    Refused(OciError),
}

impl Attempt {
    /// `uri` as it is sent to the registry; only its path and query are looked at.
    pub fn new(method: Method, uri: Uri) -> Self {
        let route = Route::of(&method, &uri);
        Self {
            method,
            uri,
            route,
            mount: Mount::Full,
            repeated: false,
            used: Used::Unknown,
        }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Where to send the request now.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Which operation it is.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The scopes to ask for now.
    pub(super) fn scopes(&self) -> Vec<String> {
        let mut scopes = self.route.scopes(&self.method);
        if self.mount != Mount::Full {
            scopes.truncate(1);
        }
        scopes
    }

    /// Whether the source's scope is asked for, and may be dropped.
    pub(super) fn has_source_scope(&self) -> bool {
        self.mount == Mount::Full && self.route.mount_source().is_some()
    }

    /// Turns a mount into an ordinary upload; false if it is none. Clients do the same when
    /// the registry answers 202 to a mount, so they go on by uploading the blob.
    pub(super) fn give_up_mount(&mut self) -> bool {
        let Some(uri) = self
            .route
            .is_mount()
            .then(|| without_mount(&self.uri))
            .flatten()
        else {
            return false;
        };
        self.uri = uri;
        self.route = Route::of(&self.method, &self.uri);
        self.mount = Mount::GivenUp;
        true
    }
}

/// `uri` without the query keys `mount` and `from`; everything else stays as it was written.
fn without_mount(uri: &Uri) -> Option<Uri> {
    let kept: Vec<&str> = uri
        .query()?
        .split('&')
        .filter(|pair| {
            let key = form_urlencoded::parse(pair.as_bytes())
                .next()
                .map(|(key, _)| key);
            !matches!(key.as_deref(), Some("mount" | "from"))
        })
        .collect();
    let path = uri.path();
    let path_and_query = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_given_up_keeps_the_rest_of_its_query_as_written() {
        for (uri, expected) in [
            (
                "/v2/a/blobs/uploads/?mount=sha256:ab&from=b",
                "/v2/a/blobs/uploads/",
            ),
            (
                "/v2/a/blobs/uploads/?mount=sha256%3Aab&x=%2F&%66rom=b&ns=r",
                "/v2/a/blobs/uploads/?x=%2F&ns=r",
            ),
            (
                "https://registry.example.com/v2/a/blobs/uploads/?from=b&mount=sha256:ab",
                "https://registry.example.com/v2/a/blobs/uploads/",
            ),
        ] {
            let mut attempt = Attempt::new(Method::POST, uri.parse().unwrap());
            assert!(attempt.give_up_mount());
            assert_eq!(attempt.uri().to_string(), expected);
            assert!(!attempt.give_up_mount());
        }
    }

    #[test]
    fn other_requests_have_no_mount_to_give_up() {
        let uri = "/v2/a/manifests/x?mount=sha256:ab&from=b";
        assert!(!Attempt::new(Method::GET, uri.parse().unwrap()).give_up_mount());
    }
}
