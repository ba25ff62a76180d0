use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Response};

use super::super::fake::{
    BEARER, Call, Fake, Hand, SECRET, answer, basic_credential, bearer_credential, challenge,
    connector, granted, identity_credential,
};
use super::*;

const PING: &str = "GET https://registry.example.com/v2/";

fn is_ping(call: &Call) -> bool {
    call.line == PING
}

/// A registry with a token service that numbers its tokens.
fn with_tokens() -> Fake {
    let issued = AtomicUsize::new(0);
    Fake::new(move |call| match is_ping(call) {
        true if call.authorization.is_none() => challenge(BEARER),
        true => answer(200, &[], "{}"),
        false => granted(&format!("t{}", issued.fetch_add(1, Ordering::SeqCst)), 300),
    })
}

fn that_demands(demand: &'static str) -> Fake {
    Fake::new(move |call| {
        if is_ping(call) {
            challenge(demand)
        } else {
            granted("t", 300)
        }
    })
}

async fn authorize(
    auth: &RegistryAuth,
    fake: &Fake,
    method: Method,
    uri: &str,
) -> Result<Option<String>, OciError> {
    let mut attempt = Attempt::new(method, uri.parse().unwrap());
    let header = auth.authorize(fake, &mut attempt).await?;
    assert!(header.as_ref().is_none_or(HeaderValue::is_sensitive));
    Ok(header.map(|header| header.to_str().unwrap().to_owned()))
}

fn basic_header() -> String {
    format!("Basic {}", STANDARD.encode(format!("robot:{SECRET}")))
}

const MANIFEST: &str = "/v2/a/app/manifests/x";

#[tokio::test]
async fn a_token_is_there_before_the_request_is_sent() {
    let (fake, auth) = (
        with_tokens(),
        RegistryAuth::new(connector(basic_credential())),
    );
    let header = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    assert_eq!(header.as_deref(), Some("Bearer t0"));
    let again = authorize(&auth, &fake, Method::HEAD, "/v2/a/app/blobs/sha256:ab")
        .await
        .unwrap();
    assert_eq!(again.as_deref(), Some("Bearer t0"), "the same scope");
    let push = authorize(&auth, &fake, Method::PUT, MANIFEST)
        .await
        .unwrap();
    assert_eq!(push.as_deref(), Some("Bearer t1"), "another scope");
    assert_eq!(fake.calls().len(), 3);
    assert_eq!(fake.calls()[0].authorization, None, "our ping is anonymous");
    assert_eq!(fake.calls()[1].authorization, Some(basic_header()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_requests_make_one_ping_and_one_token_request() {
    let fake = Arc::new(with_tokens());
    let auth = Arc::new(RegistryAuth::new(connector(basic_credential())));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (fake, auth) = (Arc::clone(&fake), Arc::clone(&auth));
            tokio::spawn(async move { authorize(&auth, &fake, Method::GET, MANIFEST).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().as_deref(), Some("Bearer t0"));
    }
    assert_eq!(fake.calls().len(), 2, "{:?}", fake.lines());
}

#[tokio::test]
async fn a_cancelled_request_does_not_hang_those_who_wait_for_its_token() {
    let fake = Arc::new(with_tokens());
    let auth = Arc::new(RegistryAuth::new(connector(basic_credential())));
    fake.hang.store(true, Ordering::SeqCst);
    let spawn = || {
        let (fake, auth) = (Arc::clone(&fake), Arc::clone(&auth));
        tokio::spawn(async move { authorize(&auth, &fake, Method::GET, MANIFEST).await })
    };
    let leader = spawn();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let waiters: Vec<_> = (0..10).map(|_| spawn()).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fake.calls().len(), 1, "all wait for one ping");
    fake.hang.store(false, Ordering::SeqCst);
    leader.abort();
    for waiter in waiters {
        let waiter = tokio::time::timeout(Duration::from_secs(5), waiter)
            .await
            .unwrap();
        assert_eq!(waiter.unwrap().unwrap().as_deref(), Some("Bearer t0"));
    }
}

#[tokio::test]
async fn an_expired_token_is_asked_for_again() {
    let hand = Hand::new();
    let auth = RegistryAuth::with_clock(connector(basic_credential()), hand.clock());
    let fake = with_tokens();
    for (advance, expected) in [
        (0, "Bearer t0"),
        (269, "Bearer t0"),
        (1, "Bearer t1"),
        (300, "Bearer t2"),
    ] {
        hand.advance(advance);
        let header = authorize(&auth, &fake, Method::GET, MANIFEST)
            .await
            .unwrap();
        assert_eq!(header.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn the_learnt_demand_survives_a_registry_that_does_not_answer_pings_for_a_while() {
    let hand = Hand::new();
    let auth = RegistryAuth::with_clock(connector(basic_credential()), hand.clock());
    let pings = AtomicUsize::new(0);
    let fake = Fake::new(move |_| match pings.fetch_add(1, Ordering::SeqCst) {
        0 => challenge(r#"Basic realm="r""#),
        _ => answer(503, &[], ""),
    });
    authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    hand.advance(3601);
    let header = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    assert_eq!(header, Some(basic_header()));
    assert_eq!(fake.calls().len(), 2);
}

#[tokio::test]
async fn basic_is_answered_with_the_credential_itself() {
    let fake = that_demands(r#"Negotiate, Basic realm="registry""#);
    let auth = RegistryAuth::new(connector(basic_credential()));
    let header = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    assert_eq!(header, Some(basic_header()));
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn a_bearer_token_in_the_secret_is_sent_without_an_exchange() {
    let auth = RegistryAuth::new(connector(bearer_credential()));
    for demand in [BEARER, r#"Basic realm="r""#] {
        let header = authorize(&auth, &that_demands(demand), Method::GET, MANIFEST)
            .await
            .unwrap();
        assert_eq!(header, Some(format!("Bearer {SECRET}")));
    }
}

#[tokio::test]
async fn an_identity_token_cannot_answer_basic_and_the_error_says_so() {
    let auth = RegistryAuth::new(connector(identity_credential()));
    let fake = that_demands(r#"Basic realm="r""#);
    let error = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap_err();
    assert!(matches!(error.cause(), Cause::CredentialUnfit), "{error}");
}

#[tokio::test]
async fn a_registry_that_asks_for_nothing_gets_nothing() {
    for status in [200, 404] {
        let fake = Fake::new(move |_| answer(status, &[], "{}"));
        let auth = RegistryAuth::new(connector(basic_credential()));
        assert_eq!(
            authorize(&auth, &fake, Method::GET, MANIFEST)
                .await
                .unwrap(),
            None
        );
        auth.ping(&fake).await.unwrap();
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn an_anonymous_connector_gets_an_anonymous_token() {
    let (fake, auth) = (with_tokens(), RegistryAuth::new(connector(None)));
    auth.ping(&fake).await.unwrap();
    let header = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    assert_eq!(header.as_deref(), Some("Bearer t0"));
    assert_eq!(fake.calls()[1].authorization, None);
}

#[tokio::test]
async fn an_unsafe_realm_never_sees_the_credential() {
    for realm in [
        "http://auth.example.com/t",
        "https://169.254.169.254/t",
        "https://u@auth.example.com/t",
    ] {
        let demand = format!(r#"Bearer realm="{realm}",service="s""#);
        let fake = Fake::new(move |_| challenge(&demand));
        let auth = RegistryAuth::new(connector(basic_credential()));
        let error = authorize(&auth, &fake, Method::GET, MANIFEST)
            .await
            .unwrap_err();
        assert!(matches!(error.cause(), Cause::UnsafeRealm(_)), "{error}");
        assert_eq!(fake.lines(), [PING]);
    }
}

#[tokio::test]
async fn presigned_urls_and_paths_outside_the_api_are_never_authorized() {
    let (fake, auth) = (
        with_tokens(),
        RegistryAuth::new(connector(basic_credential())),
    );
    for uri in [
        "/v2/a/app/blobs/sha256:ab?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=ab",
        "/c/login",
        "/v2/a/../../api/manifests/x",
    ] {
        assert_eq!(
            authorize(&auth, &fake, Method::GET, uri).await.unwrap(),
            None,
            "{uri}"
        );
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn an_unknown_request_below_the_api_gets_a_token_without_scope() {
    let (fake, auth) = (
        with_tokens(),
        RegistryAuth::new(connector(basic_credential())),
    );
    authorize(&auth, &fake, Method::GET, "/v2/_oci/ext/discover")
        .await
        .unwrap();
    assert!(!fake.lines()[1].contains("scope="), "{:?}", fake.lines());
}

#[tokio::test]
async fn a_service_that_refuses_a_mounts_second_scope_is_asked_for_the_first_alone() {
    for status in [401, 403] {
        let fake = Fake::new(move |call| match () {
            () if is_ping(call) => challenge(BEARER),
            () if call.line.contains("private") => answer(status, &[], ""),
            () => granted("target", 300),
        });
        let auth = RegistryAuth::new(connector(basic_credential()));
        let uri = "/v2/a/app/blobs/uploads/?mount=sha256:ab&from=private/base";
        let header = authorize(&auth, &fake, Method::POST, uri).await.unwrap();
        assert_eq!(header.as_deref(), Some("Bearer target"));
        assert_eq!(fake.calls().len(), 3);
    }
}

#[tokio::test]
async fn an_upload_session_outside_the_api_is_authorized_for_its_repository() {
    let (fake, auth) = (
        with_tokens(),
        RegistryAuth::new(connector(basic_credential())),
    );
    let mut start = Attempt::new(Method::POST, "/v2/a/app/blobs/uploads/".parse().unwrap());
    auth.authorize(&fake, &mut start).await.unwrap();
    auth.answered(
        &start,
        answer(202, &[("location", "/sessions/1?x=1")], "").headers(),
    );
    let mut chunk = Attempt::new(Method::PATCH, "/sessions/1?x=1".parse().unwrap());
    let header = auth.authorize(&fake, &mut chunk).await.unwrap().unwrap();
    assert_eq!(
        header.to_str().unwrap(),
        "Bearer t0",
        "the same scope as the start"
    );
    auth.answered(
        &chunk,
        answer(202, &[("location", "/sessions/2")], "").headers(),
    );
    let commit = authorize(&auth, &fake, Method::PUT, "/sessions/2?digest=sha256:ab").await;
    assert_eq!(commit.unwrap().as_deref(), Some("Bearer t0"));
}

#[tokio::test]
async fn the_realm_is_known_after_the_first_ping() {
    let (fake, auth) = (with_tokens(), RegistryAuth::new(connector(None)));
    let elsewhere: Uri = "https://auth.example.com/token?scope=x".parse().unwrap();
    assert!(!auth.is_realm(&elsewhere));
    auth.ping(&fake).await.unwrap();
    assert!(auth.is_realm(&elsewhere));
    for uri in [
        "/token",
        "https://registry.example.com/token",
        "https://auth.example.com/other",
        "https://auth.example.com:8443/token",
    ] {
        assert!(!auth.is_realm(&uri.parse().unwrap()), "{uri}");
    }

    let fake = that_demands(r#"Bearer realm="https://registry.example.com/service/token""#);
    let auth = RegistryAuth::new(connector(None));
    auth.ping(&fake).await.unwrap();
    for uri in [
        "/service/token?scope=x",
        "https://REGISTRY.example.com:443/service/token",
    ] {
        assert!(auth.is_realm(&uri.parse().unwrap()), "{uri}");
    }
}

/// What `check` says about a registry that answers `demand` without and `verdict` with
/// authorization, and whose token service answers `token`.
async fn check(
    credential: Option<Credential>,
    demand: Response<Bytes>,
    token: Response<Bytes>,
    verdict: u16,
) -> Result<(), OciError> {
    let fake = Fake::new(move |call| match is_ping(call) {
        true if call.authorization.is_none() => demand.clone(),
        true => answer(verdict, &[], ""),
        false => token.clone(),
    });
    RegistryAuth::new(connector(credential)).check(&fake).await
}

#[tokio::test]
async fn a_check_proves_the_credential_to_the_end() {
    let (basic, bearer) = (|| challenge(r#"Basic realm="r""#), || challenge(BEARER));
    let token = || granted("t", 300);
    check(basic_credential(), bearer(), token(), 200)
        .await
        .unwrap();
    check(basic_credential(), basic(), token(), 200)
        .await
        .unwrap();
    check(basic_credential(), answer(200, &[], ""), token(), 200)
        .await
        .unwrap();
    check(identity_credential(), bearer(), token(), 200)
        .await
        .unwrap();
    check(bearer_credential(), bearer(), token(), 200)
        .await
        .unwrap();
    check(None, bearer(), token(), 401).await.unwrap();
    check(None, answer(200, &[], ""), token(), 401)
        .await
        .unwrap();

    let rejected = [
        check(basic_credential(), bearer(), token(), 401).await,
        check(basic_credential(), bearer(), answer(401, &[], ""), 200).await,
        check(basic_credential(), bearer(), answer(403, &[], ""), 200).await,
        check(basic_credential(), basic(), token(), 401).await,
        check(basic_credential(), answer(200, &[], ""), token(), 401).await,
    ];
    for result in rejected {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("credential rejected"), "{error}");
    }
    let error = check(None, basic(), token(), 200).await.unwrap_err();
    assert!(
        matches!(error.cause(), Cause::CredentialMissing { .. }),
        "{error}"
    );
    for unexpected in [
        check(basic_credential(), bearer(), token(), 404).await,
        check(None, answer(404, &[], ""), token(), 200).await,
    ] {
        let error = unexpected.unwrap_err();
        assert!(matches!(error.cause(), Cause::Unexpected { .. }), "{error}");
    }
}

#[tokio::test]
async fn neither_errors_nor_debug_show_a_secret_or_token() {
    let (fake, auth) = (
        with_tokens(),
        RegistryAuth::new(connector(basic_credential())),
    );
    authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap();
    let shown = format!("{auth:?} {:?}", auth.connector);
    assert!(!shown.contains(SECRET) && !shown.contains("t0"), "{shown}");

    let fake = Fake::new(|call| {
        if is_ping(call) {
            challenge(BEARER)
        } else {
            answer(401, &[], &format!("wrong password {SECRET}"))
        }
    });
    let auth = RegistryAuth::new(connector(basic_credential()));
    let error = authorize(&auth, &fake, Method::GET, MANIFEST)
        .await
        .unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(SECRET), "{shown}");
    for part in [
        "team/images",
        "https://registry.example.com",
        "auth.example.com",
        "Secret",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
