//! Upload sessions whose address does not tell the repository.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::LOCATION;
use http::{HeaderMap, Method, Uri};
use url::Url;

use super::bounded::Bounded;
use super::demand::origin;
use super::realm;
use super::route::{Route, UploadStep};
use crate::state::Address;

/// How many open sessions one Connector remembers.
const CAPACITY: usize = 1024;

/// Longest session path that is remembered, in bytes.
const MAX_PATH: usize = 2048;

/// Paths of sessions, and the repositories they push to.
///
/// The `Location` of an upload is opaque. Most registries keep to `/v2/<name>/blobs/uploads/`,
/// but some put their sessions elsewhere on the same host, where neither the repository nor
/// the fact that it is an upload can be read from the path.
pub(super) struct Uploads {
    sessions: Mutex<Bounded<String, String>>,
}

impl Uploads {
    pub(super) fn new() -> Self {
        Self {
            sessions: Mutex::new(Bounded::new(CAPACITY)),
        }
    }

    /// Remembers where the session went that a 2xx answer to `route` at `path` speaks of.
    pub(super) fn learn(&self, registry: &Address, route: &Route, path: &str, headers: &HeaderMap) {
        let Route::Upload { repository, step } = route else {
            return;
        };
        if matches!(step, UploadStep::Commit | UploadStep::Cancel) {
            return;
        }
        let Some(session) = session_path(registry, path, headers) else {
            return;
        };
        if session.len() <= MAX_PATH && session.parse().is_ok_and(|uri| is_opaque(&uri)) {
            self.sessions().insert(session, repository.clone());
        }
    }

    /// The route of a request whose own path says nothing.
    pub(super) fn find(&self, method: &Method, uri: &Uri) -> Option<Route> {
        let repository = self.sessions().get(uri.path())?;
        Route::upload_session(method, &repository)
    }

    fn sessions(&self) -> MutexGuard<'_, Bounded<String, String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of `Location`, when it stays on the registry's own host and scheme.
fn session_path(registry: &Address, path: &str, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let base = Url::parse(&origin(registry)).ok()?;
    let url = base.join(path).ok()?.join(location).ok()?;
    let stays = url.scheme() == base.scheme() && realm::is_same_host(&url, registry);
    stays.then(|| url.path().to_owned())
}

fn is_opaque(session: &Uri) -> bool {
    let route = Route::of(&Method::PATCH, session);
    matches!(route, Route::Other | Route::Outside)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn registry() -> Address {
        let host = "registry.example.com".into();
        Address {
            scheme: crate::state::Scheme::Https,
            host,
            port: 443,
            path: String::new(),
        }
    }

    fn found(location: &'static str, uri: &str) -> Option<Route> {
        let uploads = Uploads::new();
        let start = "/v2/a/app/blobs/uploads/";
        let route = Route::of(&Method::POST, &start.parse().unwrap());
        let headers = [(LOCATION, HeaderValue::from_static(location))]
            .into_iter()
            .collect();
        uploads.learn(&registry(), &route, start, &headers);
        uploads.find(&Method::PATCH, &uri.parse().unwrap())
    }

    #[test]
    fn a_session_outside_the_api_is_known_by_its_location() {
        let expected = Route::upload_session(&Method::PATCH, "a/app");
        for location in [
            "/uploads/namespaces/a/xyz?state=1",
            "https://registry.example.com/uploads/namespaces/a/xyz?state=1",
            "https://registry.example.com:443/uploads/namespaces/a/xyz",
        ] {
            assert_eq!(
                found(location, "/uploads/namespaces/a/xyz?state=2"),
                expected,
                "{location}"
            );
        }
        assert_eq!(
            found("/v2/a/app/sessions/1/2", "/v2/a/app/sessions/1/2"),
            expected
        );
    }

    #[test]
    fn a_location_on_another_host_or_scheme_is_not_remembered() {
        for location in [
            "https://storage.example.com/uploads/xyz",
            "http://registry.example.com/uploads/xyz",
            "https://registry.example.com:8443/uploads/xyz",
            "//storage.example.com/uploads/xyz",
        ] {
            assert_eq!(found(location, "/uploads/xyz"), None, "{location}");
        }
    }

    #[test]
    fn a_location_cannot_turn_another_operation_into_a_push() {
        assert_eq!(found("/v2/b/manifests/x", "/v2/b/manifests/x"), None);
    }
}
