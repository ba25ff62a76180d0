//! A registry and token service played by a closure.
#![expect(
    clippy::unnecessary_wraps,
    reason = "the credentials are what a Connector's field holds"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Response};
use secrecy::SecretString;

use super::fetch::{Fetch, FetchError};
use super::flight::Clock;
use crate::state::{
    Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy, OnUntrustedCa,
    Protocol, Scheme,
};

pub(super) const SECRET: &str = "hunter2";

type Play = dyn Fn(&Call) -> Response<Bytes> + Send + Sync;

/// One request as it arrived.
#[derive(Clone)]
pub(super) struct Call {
    /// `GET https://registry.example.com/v2/`.
    pub(super) line: String,
    pub(super) authorization: Option<String>,
    pub(super) body: String,
}

/// Answers by `play` and keeps what it was asked.
pub(super) struct Fake {
    play: Box<Play>,
    calls: Mutex<Vec<Call>>,
    /// While set, requests are accepted and never answered.
    pub(super) hang: AtomicBool,
    delay: Duration,
}

impl Fake {
    pub(super) fn new(play: impl Fn(&Call) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        let delay = Duration::from_millis(2);
        Self {
            play: Box::new(play),
            calls: Mutex::default(),
            hang: AtomicBool::new(false),
            delay,
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("not poisoned").clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.line).collect()
    }
}

impl Fetch for Fake {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let header = request.headers().get(AUTHORIZATION);
        let call = Call {
            line: format!("{} {}", request.method(), request.uri()),
            authorization: header.map(|value| value.to_str().expect("text").to_owned()),
            body: String::from_utf8(request.body().to_vec()).expect("text"),
        };
        self.calls.lock().expect("not poisoned").push(call.clone());
        tokio::time::sleep(self.delay).await;
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok((self.play)(&call))
    }
}

pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::copy_from_slice(body.as_bytes()));
    *answer.status_mut() = status.try_into().expect("a status");
    for (name, value) in headers {
        let name = HeaderName::try_from(*name).expect("a name");
        answer
            .headers_mut()
            .append(name, HeaderValue::from_str(value).expect("a value"));
    }
    answer
}

/// 401 with one challenge.
pub(super) fn challenge(challenge: &str) -> Response<Bytes> {
    answer(401, &[("www-authenticate", challenge)], "")
}

pub(super) const BEARER: &str =
    r#"Bearer realm="https://auth.example.com/token",service="registry.example.com""#;

pub(super) fn granted(token: &str, expires_in: u32) -> Response<Bytes> {
    answer(
        200,
        &[],
        &format!(r#"{{"token":"{token}","expires_in":{expires_in}}}"#),
    )
}

pub(super) fn basic_credential() -> Option<Credential> {
    let (username, password) = (SecretString::from("robot"), SecretString::from(SECRET));
    Some(Credential::Basic { username, password })
}

pub(super) fn identity_credential() -> Option<Credential> {
    Some(Credential::IdentityToken {
        token: SecretString::from(SECRET),
    })
}

pub(super) fn bearer_credential() -> Option<Credential> {
    Some(Credential::Bearer {
        token: SecretString::from(SECRET),
    })
}

pub(super) fn connector(credential: Option<Credential>) -> Arc<Connector> {
    Arc::new(Connector {
        id: ConnectorId(1),
        namespace: "team".into(),
        name: "images".into(),
        class: "oci".into(),
        address: Address {
            scheme: Scheme::Https,
            host: "registry.example.com".into(),
            port: 443,
            path: String::new(),
        },
        extensions: Vec::new(),
        protocol: Protocol::Oci,
        credential,
        client_authorization: ClientAuthorization::Replace,
        failure_policy: FailurePolicy::Closed,
        on_untrusted_ca: OnUntrustedCa::Fail,
        extra_roots: Arc::default(),
    })
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub(super) struct Hand(Arc<Mutex<Instant>>);

impl Hand {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn advance(&self, seconds: u64) {
        *self.0.lock().expect("not poisoned") += Duration::from_secs(seconds);
    }

    pub(super) fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || *hand.0.lock().expect("not poisoned"))
    }
}
