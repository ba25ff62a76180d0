use super::super::fake::{
    Call, Fake, Hand, SECRET, answer, basic_credential, granted, identity_credential,
};
use super::*;

fn seconds(body: &str) -> u64 {
    parse(body.as_bytes()).unwrap().1.as_secs()
}

#[test]
fn token_and_access_token_are_both_understood() {
    for (body, expected) in [
        (r#"{"token":"a"}"#, "a"),
        (r#"{"access_token":"b"}"#, "b"),
        (r#"{"token":"a","access_token":"b"}"#, "a"),
        (r#"{"token":"","access_token":"b"}"#, "b"),
        (
            r#"{"token":null,"access_token":"b","scope":"x","refresh_token":"r"}"#,
            "b",
        ),
        (r#"{"token":"a\/b"}"#, "a/b"),
    ] {
        assert_eq!(
            parse(body.as_bytes()).unwrap().0.expose_secret(),
            expected,
            "{body}"
        );
    }
}

#[test]
fn an_opaque_token_lives_as_long_as_expires_in_says() {
    assert_eq!(seconds(r#"{"token":"djE6b3BhcXVl","expires_in":300}"#), 300);
    assert_eq!(
        seconds(r#"{"token":"a","expires_in":300.9,"issued_at":"1999-01-01T00:00:00Z"}"#),
        300
    );
    assert_eq!(seconds(r#"{"token":"a","expires_in":"300"}"#), 300);
}

#[test]
fn a_missing_or_zero_life_is_sixty_seconds_and_a_short_one_is_believed() {
    for body in [
        r#"{"token":"a"}"#,
        r#"{"token":"a","expires_in":0}"#,
        r#"{"token":"a","expires_in":-5}"#,
        r#"{"token":"a","expires_in":null}"#,
        r#"{"token":"a","expires_in":"soon"}"#,
        r#"{"token":"a","expires_in":"NaN"}"#,
    ] {
        assert_eq!(seconds(body), 60, "{body}");
    }
    assert_eq!(seconds(r#"{"token":"a","expires_in":10}"#), 10);
}

#[test]
fn an_endless_life_is_cut_to_a_day() {
    assert_eq!(seconds(r#"{"token":"a","expires_in":1e300}"#), 86_400);
    assert_eq!(seconds(r#"{"token":"a","expires_in":"inf"}"#), 86_400);
}

#[test]
fn answers_without_a_usable_token_are_refused() {
    for body in [
        "",
        "{}",
        "[]",
        "<html>",
        r#"{"token":""}"#,
        r#"{"token":5}"#,
    ] {
        assert!(parse(body.as_bytes()).is_err(), "{body}");
    }
    assert!(parse(b"{\"token\":\"a\\r\\nX-Evil: 1\"}").is_err());
    assert!(parse("{\"token\":\"ä\"}".as_bytes()).is_err());
}

async fn send(
    fake: &Fake,
    credential: Option<&Credential>,
    scopes: &[&str],
) -> Result<Token, Cause> {
    let realm = Url::parse("https://auth.example.com/token?tenant=a").unwrap();
    let scopes: Vec<String> = scopes.iter().map(|&scope| scope.into()).collect();
    let service = Some("registry.example.com");
    let request = TokenRequest {
        realm: &realm,
        service,
        scopes: &scopes,
        credential,
    };
    request.send(fake, &Hand::new().clock()).await
}

const SCOPES: [&str; 2] = ["repository:b/new:pull,push", "repository:a/old:pull"];

#[tokio::test]
async fn the_get_form_has_one_scope_parameter_each_newest_first_and_keeps_the_realms_query() {
    let fake = Fake::new(|_| granted("t", 300));
    send(&fake, basic_credential().as_ref(), &SCOPES)
        .await
        .unwrap();
    let [call] = fake.calls().try_into().ok().unwrap();
    assert_eq!(
        call.line,
        "GET https://auth.example.com/token?tenant=a&service=registry.example.com\
         &scope=repository%3Ab%2Fnew%3Apull%2Cpush&scope=repository%3Aa%2Fold%3Apull"
    );
    let expected = format!("Basic {}", STANDARD.encode(format!("robot:{SECRET}")));
    assert_eq!(call.authorization, Some(expected));
}

#[tokio::test]
async fn an_anonymous_request_carries_no_authorization() {
    let fake = Fake::new(|_| granted("t", 300));
    send(&fake, None, &[]).await.unwrap();
    let [call] = fake.calls().try_into().ok().unwrap();
    assert_eq!(call.authorization, None);
    assert!(!call.line.contains("scope="), "{}", call.line);
}

#[tokio::test]
async fn an_identity_token_is_posted_with_its_scopes_joined_by_a_space() {
    let fake = Fake::new(|_| granted("t", 300));
    send(&fake, identity_credential().as_ref(), &SCOPES)
        .await
        .unwrap();
    let [call] = fake.calls().try_into().ok().unwrap();
    assert_eq!(call.line, "POST https://auth.example.com/token?tenant=a");
    assert_eq!(call.authorization, None);
    let form: Vec<_> = form_urlencoded::parse(call.body.as_bytes())
        .into_owned()
        .collect();
    let expected = [
        ("grant_type", "refresh_token"),
        ("service", "registry.example.com"),
        ("client_id", "postern"),
        ("scope", "repository:b/new:pull,push repository:a/old:pull"),
        ("refresh_token", SECRET),
    ];
    assert_eq!(
        form,
        expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn a_service_without_the_post_form_is_asked_by_get() {
    for status in [400, 401, 404, 405] {
        let fake = Fake::new(move |call: &Call| {
            if call.line.starts_with("POST") {
                answer(status, &[], "")
            } else {
                granted("t", 300)
            }
        });
        send(&fake, identity_credential().as_ref(), &[])
            .await
            .unwrap();
        let expected = format!("Basic {}", STANDARD.encode(format!("<token>:{SECRET}")));
        assert_eq!(fake.calls()[1].authorization, Some(expected), "{status}");
    }
}

#[tokio::test]
async fn an_identity_token_that_both_forms_refuse_is_rejected() {
    let fake = Fake::new(|call: &Call| {
        answer(
            if call.line.starts_with("POST") {
                400
            } else {
                404
            },
            &[],
            "",
        )
    });
    let cause = send(&fake, identity_credential().as_ref(), &[])
        .await
        .unwrap_err();
    assert!(matches!(cause, Cause::CredentialRejected { .. }), "{cause}");
}

#[tokio::test]
async fn a_redirect_of_the_token_service_is_not_followed() {
    for status in [301, 302, 307, 308] {
        let fake = Fake::new(move |_| {
            answer(
                status,
                &[("location", "https://elsewhere.example.com/")],
                "",
            )
        });
        let cause = send(&fake, basic_credential().as_ref(), &[])
            .await
            .unwrap_err();
        assert!(matches!(cause, Cause::Redirected { .. }), "{cause}");
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn an_answer_over_64_kib_is_refused() {
    let fake = Fake::new(|_| granted(&"a".repeat(64 * 1024), 300));
    let cause = send(&fake, basic_credential().as_ref(), &[])
        .await
        .unwrap_err();
    assert!(matches!(cause, Cause::BadAnswer { .. }), "{cause}");
}

#[tokio::test]
async fn each_status_of_the_token_service_has_its_meaning() {
    type Check = fn(&Cause) -> bool;
    let table: [(u16, bool, Check); 6] = [
        (401, true, |c| matches!(c, Cause::CredentialRejected { .. })),
        (401, false, |c| matches!(c, Cause::CredentialMissing { .. })),
        (403, true, |c| matches!(c, Cause::Denied { .. })),
        (404, true, |c| matches!(c, Cause::Unexpected { .. })),
        (503, true, |c| matches!(c, Cause::Unavailable { .. })),
        (
            429,
            true,
            |c| matches!(c, Cause::Busy { retry_after: Some(d), .. } if d.as_secs() == 7),
        ),
    ];
    for (status, with_credential, check) in table {
        let fake = Fake::new(move |_| answer(status, &[("retry-after", "7")], SECRET));
        let credential = basic_credential().filter(|_| with_credential);
        let cause = send(&fake, credential.as_ref(), &[]).await.unwrap_err();
        assert!(check(&cause), "{status}: {cause}");
        assert!(!format!("{cause} {cause:?}").contains(SECRET), "{cause:?}");
    }
}

#[test]
fn headers_with_secrets_are_marked_as_sensitive() {
    let header = basic("robot", SECRET).unwrap();
    assert!(header.is_sensitive());
    assert_eq!(format!("{header:?}"), "Sensitive");
    assert!(bearer(&SecretString::from("t")).unwrap().is_sensitive());
    assert!(matches!(
        bearer(&SecretString::from("t\n")),
        Err(Cause::CredentialUnsendable)
    ));
}

#[tokio::test]
async fn the_all_zero_user_name_marks_a_refresh_token_to_be_posted() {
    let fake = Fake::new(|_| granted("t", 300));
    let username = "00000000-0000-0000-0000-000000000000".into();
    let password = SECRET.into();
    let credential = Credential::Basic { username, password };
    send(&fake, Some(&credential), &[]).await.unwrap();
    let [call] = fake.calls().try_into().ok().unwrap();
    assert!(call.line.starts_with("POST "), "{}", call.line);
    assert!(
        call.body.contains("grant_type=refresh_token"),
        "{}",
        call.body
    );
}
