use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;

use super::super::error::OciError;
use super::super::fake::{
    BEARER, Fake, Hand, answer, basic_credential, challenge, connector, granted,
};
use super::*;

const SCOPELESS: &str = r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",error="insufficient_scope""#;

/// A registry whose ping answers `demand`, with a token service that numbers its tokens.
fn that_demands(demand: Option<&'static str>) -> Fake {
    let issued = AtomicUsize::new(0);
    Fake::new(move |call| match (call.line.ends_with("/v2/"), demand) {
        (true, Some(demand)) => challenge(demand),
        (true, None) => answer(200, &[], "{}"),
        (false, _) => granted(&format!("t{}", issued.fetch_add(1, Ordering::SeqCst)), 300),
    })
}

struct Case {
    fake: Fake,
    auth: RegistryAuth,
    hand: Hand,
    attempt: Attempt,
}

impl Case {
    fn new(demand: Option<&'static str>, method: Method, uri: &str) -> Self {
        let hand = Hand::new();
        let auth = RegistryAuth::with_clock(connector(basic_credential()), hand.clock());
        let attempt = Attempt::new(method, uri.parse().unwrap());
        Self {
            fake: that_demands(demand),
            auth,
            hand,
            attempt,
        }
    }

    async fn authorize(&mut self) -> Option<String> {
        let header = self
            .auth
            .authorize(&self.fake, &mut self.attempt)
            .await
            .unwrap();
        header.map(|header| header.to_str().unwrap().to_owned())
    }

    fn rejected(&mut self, status: u16, challenges: &[&str]) -> Rejection {
        let lines: Vec<_> = challenges
            .iter()
            .map(|line| ("www-authenticate", *line))
            .collect();
        let answer = answer(status, &lines, "");
        self.auth
            .rejected(&mut self.attempt, answer.status(), answer.headers())
    }

    fn repeats(&mut self, status: u16, challenges: &[&str]) {
        let rejection = self.rejected(status, challenges);
        assert!(matches!(rejection, Rejection::Repeat), "{rejection:?}");
    }

    fn refused(&mut self, status: u16, challenges: &[&str]) -> OciError {
        match self.rejected(status, challenges) {
            Rejection::Refused(error) => error,
            Rejection::Repeat => panic!("to be refused"),
        }
    }
}

const MANIFEST: &str = "/v2/a/app/manifests/x";
const MOUNT: &str = "/v2/a/app/blobs/uploads/?mount=sha256:ab&from=b/base";

#[tokio::test]
async fn a_401_drops_the_token_and_is_repeated_once() {
    let mut case = Case::new(Some(BEARER), Method::GET, MANIFEST);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t0"));
    case.repeats(401, &[BEARER]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t1"));
    let error = case.refused(401, &[BEARER]);
    assert!(matches!(error.cause(), Cause::Denied { .. }), "{error}");
}

#[tokio::test]
async fn a_granted_subset_is_no_permission_and_is_not_asked_for_twice() {
    let mut case = Case::new(Some(BEARER), Method::PUT, MANIFEST);
    case.authorize().await;
    let error = case.refused(401, &[SCOPELESS]);
    assert!(matches!(error.cause(), Cause::Denied { .. }), "{error}");
    assert_eq!(case.fake.calls().len(), 2);
}

#[tokio::test]
async fn an_older_token_that_lacks_a_scope_is_renewed_since_rights_may_have_been_given() {
    let mut case = Case::new(Some(BEARER), Method::PUT, MANIFEST);
    case.authorize().await;
    case.hand.advance(60);
    case.repeats(401, &[SCOPELESS]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t1"));
}

#[tokio::test]
async fn a_403_is_not_repeated_but_an_older_token_is_dropped() {
    let mut case = Case::new(Some(BEARER), Method::GET, MANIFEST);
    case.authorize().await;
    case.refused(403, &[]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t0"));
    case.hand.advance(60);
    case.refused(403, &[]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t1"));
}

#[tokio::test]
async fn a_late_401_spares_the_token_that_another_request_has_renewed() {
    let mut case = Case::new(Some(BEARER), Method::GET, MANIFEST);
    case.authorize().await;
    let mut late = Attempt::new(Method::GET, MANIFEST.parse().unwrap());
    case.auth.authorize(&case.fake, &mut late).await.unwrap();
    case.repeats(401, &[BEARER]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t1"));
    let answer = challenge(BEARER);
    case.auth
        .rejected(&mut late, answer.status(), answer.headers());
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t1"));
}

#[tokio::test]
async fn a_mount_drops_the_sources_scope_and_then_the_mount() {
    let mut case = Case::new(Some(BEARER), Method::POST, MOUNT);
    case.authorize().await;
    assert!(case.fake.lines()[1].contains("b%2Fbase"));
    case.repeats(401, &[SCOPELESS]);
    assert_eq!(case.attempt.uri().to_string(), MOUNT);
    case.authorize().await;
    assert!(!case.fake.lines()[2].contains("b%2Fbase"));
    case.repeats(401, &[SCOPELESS]);
    assert_eq!(case.attempt.uri().to_string(), "/v2/a/app/blobs/uploads/");
    case.authorize().await;
    let error = case.refused(401, &[SCOPELESS]);
    assert!(matches!(error.cause(), Cause::Denied { .. }), "{error}");
}

#[tokio::test]
async fn a_mount_with_an_old_token_is_first_repeated_as_it_is() {
    let mut case = Case::new(Some(BEARER), Method::POST, MOUNT);
    case.authorize().await;
    case.hand.advance(60);
    case.repeats(401, &[BEARER]);
    case.authorize().await;
    assert!(case.fake.lines()[2].contains("b%2Fbase"));
}

#[tokio::test]
async fn a_mount_refused_with_basic_becomes_an_upload_at_once() {
    let basic = r#"Basic realm="r""#;
    let mut case = Case::new(Some(basic), Method::POST, MOUNT);
    case.authorize().await;
    case.repeats(403, &[]);
    assert_eq!(case.attempt.uri().to_string(), "/v2/a/app/blobs/uploads/");
    case.authorize().await;
    case.refused(403, &[]);
}

#[tokio::test]
async fn a_password_that_the_registry_rejects_is_not_sent_again() {
    let basic = r#"Basic realm="r""#;
    let mut case = Case::new(Some(basic), Method::GET, MANIFEST);
    case.authorize().await;
    let error = case.refused(401, &[basic]);
    assert!(
        matches!(error.cause(), Cause::CredentialRejected { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_open_ping_followed_by_a_401_teaches_the_demand() {
    let own = r#"Bearer realm="https://registry.example.com/token",service="s""#;
    for (demand, expected) in [(own, "Bearer t0"), (r#"Basic realm="r""#, "Basic ")] {
        let mut case = Case::new(None, Method::GET, MANIFEST);
        assert_eq!(case.authorize().await, None);
        case.repeats(401, &[demand]);
        assert!(case.authorize().await.unwrap().starts_with(expected));
        case.hand.advance(24 * 60 * 60);
        assert!(
            case.authorize().await.is_some(),
            "an open ping does not undo it"
        );
    }
}

#[tokio::test]
async fn a_401_to_a_clients_request_never_names_another_token_service() {
    let foreign = r#"Bearer realm="https://evil.example.com/token",service="s""#;
    for ping in [None, Some(BEARER), Some(r#"Basic realm="r""#)] {
        let mut case = Case::new(ping, Method::GET, MANIFEST);
        case.authorize().await;
        case.repeats(401, &[foreign]);
        case.authorize().await;
        case.refused(401, &[foreign]);
        assert!(
            !case.fake.lines().iter().any(|line| line.contains("evil")),
            "{ping:?}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_changed_its_scheme_is_pinged_again() {
    let pings = AtomicUsize::new(0);
    let mut case = Case::new(None, Method::GET, MANIFEST);
    case.fake = Fake::new(move |call| match call.line.ends_with("/v2/") {
        true if pings.fetch_add(1, Ordering::SeqCst) == 0 => challenge(r#"Basic realm="r""#),
        true => challenge(BEARER),
        false => granted("t", 300),
    });
    assert!(case.authorize().await.unwrap().starts_with("Basic "));
    case.repeats(401, &[BEARER]);
    assert_eq!(case.authorize().await.as_deref(), Some("Bearer t"));
}
