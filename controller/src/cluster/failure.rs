//! Why a request or a watch failed, in words for those who run the controller.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher;
use thiserror::Error;

use crate::kubernetes::FetchError;

/// Why a request failed. No message holds what an object says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Failure {
    /// There is no answer.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The answer takes too long.
    #[error("the API server does not answer in time")]
    TimedOut,
    /// 401.
    #[error("the API server does not accept the controller's credentials: check its token")]
    Unauthorized,
    /// 403.
    #[error("the controller lacks a permission ({0}): run `kubectl apply -k manifests/rbac`")]
    Forbidden(String),
    /// 404 for an object, or for the whole resource.
    #[error("not found")]
    NotFound,
    /// 409.
    #[error("the object was replaced or changed meanwhile")]
    Conflict,
    /// 410: what a watch starts from is forgotten.
    #[error("the API server has forgotten this version; listing again")]
    Expired,
    /// Another status.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The answer is not what was asked for.
    #[error("the API server's answer is not understood")]
    NotUnderstood,
}

impl Failure {
    /// Whether it says nothing about the object, but about the API server or the
    /// controller's rights. Many objects fail like that at the same time.
    pub(super) fn is_general(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::Unauthorized | Self::Forbidden(_) => true,
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            _ => false,
        }
    }

    /// Whether the API server refuses what is written, and would refuse it again.
    pub(super) fn is_of_the_object(&self) -> bool {
        matches!(self, Self::Refused { code: 422, .. })
    }

    fn is_of_the_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::TimedOut | Self::Unauthorized
        )
    }

    /// Failures of one kind are told once.
    fn kind(&self) -> u16 {
        match self {
            Self::Unreachable(_) => 0,
            Self::TimedOut => 1,
            Self::NotUnderstood => 2,
            Self::Unauthorized => 401,
            Self::Forbidden(_) => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Expired => 410,
            Self::Refused { code, .. } => *code,
        }
    }

    fn of_status(status: &kube::core::Status) -> Self {
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(status.message.clone()),
            404 => Self::NotFound,
            409 => Self::Conflict,
            410 => Self::Expired,
            code => Self::Refused {
                code,
                message: status.message.clone(),
            },
        }
    }
}

impl From<&kube::Error> for Failure {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            // These may hold parts of the answer.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::NotUnderstood,
            other => Self::Unreachable(with_causes(other)),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::from(&error)
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Request(error) => error.into(),
            FetchError::NotASecret => Self::NotUnderstood,
        }
    }
}

impl From<&watcher::Error> for Failure {
    fn from(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => error.into(),
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::NoResourceVersion => Self::NotUnderstood,
        }
    }
}

/// An error with its causes; nothing is said twice.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Which failures were told already; clones know of each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<BTreeMap<&'static str, u16>>>);

impl Told {
    /// What fails when there is no API server for us: everything.
    const SERVER: &str = "the API server";

    /// Whether this failure is news.
    pub(super) fn is_news(&self, what: &'static str, failure: &Failure) -> bool {
        let what = if failure.is_of_the_connection() {
            Self::SERVER
        } else {
            what
        };
        self.lock().insert(what, failure.kind()) != Some(failure.kind())
    }

    /// It works. Returns whether that is news.
    pub(super) fn works(&self, what: &'static str) -> bool {
        let mut told = self.lock();
        let server = told.remove(Self::SERVER).is_some();
        told.remove(what).is_some() || server
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u16>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Failure {
        let status = kube::core::Status::failure("some words", "Reason").with_code(code);
        Failure::from(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_missing_permission_says_which_and_what_to_do() {
        let text = status(403).to_string();
        assert!(text.contains("some words") && text.contains("kubectl apply -k manifests/rbac"));
    }

    #[test]
    fn what_the_server_says_of_itself_is_general() {
        for code in [401, 403, 429, 500, 503] {
            assert!(status(code).is_general(), "{code}");
        }
        for code in [404, 409, 410, 422] {
            assert!(!status(code).is_general(), "{code}");
        }
    }

    #[test]
    fn an_answer_that_is_not_understood_is_not_repeated() {
        let error = serde_json::from_str::<u32>(r#""hunter2""#).expect_err("no number");
        let failure = Failure::from(&kube::Error::SerdeError(error));
        assert!(!format!("{failure} {failure:?}").contains("hunter2"));
    }

    #[test]
    fn one_kind_of_failure_is_told_once() {
        let told = Told::default();
        assert!(told.is_news("watch", &status(500)));
        assert!(!told.is_news("watch", &status(500)));
        assert!(told.is_news("review", &status(500)));
        assert!(told.is_news("watch", &status(403)));
        assert!(told.works("watch"));
        assert!(!told.works("watch"));
        assert!(told.is_news("watch", &status(403)));
    }

    #[test]
    fn an_api_server_that_is_away_is_told_once_for_everything() {
        let told = Told::default();
        let away = Failure::Unreachable("refused".to_owned());
        assert!(told.is_news("watch", &away));
        assert!(!told.clone().is_news("review", &away));
        assert!(told.works("review"));
        assert!(!told.works("watch"));
    }
}
