//! What answers come to.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;

fn answer(status: u16) -> ProbeResponse {
    let status = StatusCode::from_u16(status).expect("a status");
    ProbeResponse {
        status,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

fn redirect(status: u16, to: &'static str) -> ProbeResponse {
    let mut response = answer(status);
    response
        .headers
        .insert(LOCATION, HeaderValue::from_static(to));
    response
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Conditions of the one Connector, as `Type=Status(reason: message)`.
fn conditions(
    loaded: &Loaded,
    send: impl AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
    oci_auth: impl AsyncFn(&Arc<Connector>) -> Result<(), String>,
) -> Vec<String> {
    let reports = run(check(loaded, send, oci_auth));
    let show = |it: &Condition| {
        format!(
            "{}={:?}({}: {})",
            it.type_, it.status, it.reason, it.message
        )
    };
    reports[0].conditions.iter().map(show).collect()
}

#[test]
fn conditions_say_what_happened() {
    let loaded = load(
        "connectorClassName: npm, address: https://n.example.com, auth: {secretRef: {name: basic}}",
        "",
    );
    let no_exchange = async |_: &Arc<Connector>| -> Result<(), String> { panic!("no registry") };
    // Liveness, then authentication.
    for (live, auth, expected) in [
        (
            Ok(200),
            Ok(200),
            [
                "LivenessReady=True(: )",
                "AuthReady=True(: )",
                "Ready=True(: )",
            ],
        ),
        (
            Ok(200),
            Ok(401),
            [
                "LivenessReady=True(: )",
                "AuthReady=False(AuthenticationFailed: Authentication failed: status code 401)",
                "Ready=False(AuthenticationFailed: AuthReady does not hold)",
            ],
        ),
        (
            Ok(503),
            Ok(200),
            [
                "LivenessReady=False(ConnectionFailed: status code 503)",
                "AuthReady=True(: )",
                "Ready=False(ConnectionFailed: LivenessReady does not hold)",
            ],
        ),
        (
            Err("connection refused"),
            Ok(200),
            [
                "LivenessReady=False(ConnectionFailed: connection refused)",
                "AuthReady=Unknown(ConnectionFailed: not checked, because the upstream does not answer)",
                "Ready=False(ConnectionFailed: LivenessReady does not hold)",
            ],
        ),
    ] {
        let send = async |_: &Arc<Connector>, request: ProbeRequest| {
            let result = if request.headers.contains_key(AUTHORIZATION) {
                auth
            } else {
                live
            };
            result
                .map(answer)
                .map_err(|message: &str| message.to_owned())
        };
        let found = conditions(&loaded, send, no_exchange);
        assert_eq!(found[0], "SecretReady=True(: )");
        assert_eq!(found[1..], expected);
    }
}

#[test]
fn registries_are_asked_by_token_exchange() {
    let spec = |class: &str, auth: &str| {
        format!("connectorClassName: {class}, address: https://r.example.com{auth}")
    };
    let secret = ", auth: {secretRef: {name: basic}}";
    for (class, auth, probe, exchange, expected) in [
        ("oci", secret, 401, Ok(()), "AuthReady=True(: )"),
        (
            "oci",
            secret,
            401,
            Err("denied"),
            "AuthReady=False(AuthenticationFailed: Authentication failed: denied)",
        ),
        (
            "oci",
            "",
            401,
            Err("not asked"),
            "AuthReady=True(NonAuthProbe: )",
        ),
        // A robot account is no user of the API, and a good account all the same.
        ("harbor", secret, 401, Ok(()), "AuthReady=True(: )"),
        (
            "harbor",
            secret,
            200,
            Err("not asked"),
            "AuthReady=True(: )",
        ),
        (
            "harbor",
            secret,
            401,
            Err("denied"),
            "AuthReady=False(AuthenticationFailed: Authentication failed: denied)",
        ),
    ] {
        let loaded = load(&spec(class, auth), "");
        let send = async |_: &Arc<Connector>, request: ProbeRequest| {
            Ok(answer(if request.url.path().ends_with("/current") {
                probe
            } else {
                200
            }))
        };
        let oci_auth =
            async |_: &Arc<Connector>| exchange.map_err(|message: &str| message.to_owned());
        let found = conditions(&loaded, send, oci_auth);
        assert_eq!(found[2], expected, "{class} {probe} {exchange:?}");
        if auth.is_empty() {
            assert_eq!(found[0], "SecretReady=True(SecretOptional: )");
        }
    }
}

#[test]
fn redirects_are_followed_on_the_same_origin_only() {
    let class = "  livenessProbe: {http: {path: /}}";
    let loaded = load(
        "connectorClassName: own, address: https://n.example.com",
        class,
    );
    let elsewhere = ", a redirect to another origin, which is not followed)";
    for (first, expected, requests) in [
        (
            redirect(302, "/there"),
            "LivenessReady=True(: )".to_owned(),
            2,
        ),
        (
            redirect(308, "https://n.example.com:443/there"),
            "LivenessReady=True(: )".to_owned(),
            2,
        ),
        (
            redirect(302, "https://other.example.com/there"),
            format!("LivenessReady=False(ConnectionFailed: status code 302{elsewhere}"),
            1,
        ),
        (
            redirect(307, "http://n.example.com/there"),
            format!("LivenessReady=False(ConnectionFailed: status code 307{elsewhere}"),
            1,
        ),
        (
            redirect(302, "https://me@n.example.com/there"),
            format!("LivenessReady=False(ConnectionFailed: status code 302{elsewhere}"),
            1,
        ),
        // A loop ends.
        (
            redirect(302, "/"),
            "LivenessReady=False(ConnectionFailed: status code 302)".to_owned(),
            6,
        ),
        (
            redirect(304, "/there"),
            "LivenessReady=False(ConnectionFailed: status code 304)".to_owned(),
            1,
        ),
    ] {
        let seen = Cell::new(0);
        let send = async |_: &Arc<Connector>, request: ProbeRequest| {
            seen.set(seen.get() + 1);
            Ok(if request.url.path() == "/there" {
                answer(200)
            } else {
                first.clone()
            })
        };
        let found = conditions(&loaded, send, async |_: &Arc<Connector>| Ok(()));
        assert_eq!(
            (found[1].as_str(), seen.get()),
            (expected.as_str(), requests)
        );
    }
}

#[test]
fn a_disabled_redirect_is_the_answer() {
    let class = "  livenessProbe: {http: {path: /, disableRedirect: true, response: {cel: 'response.statusCode == 302'}}}";
    let loaded = load(
        "connectorClassName: own, address: https://me.example.com",
        class,
    );
    let send = async |_: &Arc<Connector>, _: ProbeRequest| Ok(redirect(302, "/there"));
    let found = conditions(&loaded, send, async |_: &Arc<Connector>| Ok(()));
    assert_eq!(found[1], "LivenessReady=True(: )");
}

#[test]
fn many_are_checked_at_once_but_not_all() {
    let mut text = String::new();
    for index in 0..50 {
        text = format!(
            "{text}apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: {{name: \
             c{index}}}\nspec: {{connectorClassName: npm, address: 'https://h{index}.example.com'}}\n---\n"
        );
    }
    let loaded = load_text("a.yaml", &text).expect("sound");
    let running = Cell::new(0);
    let most = Cell::new(0);
    let order = RefCell::new(Vec::new());
    let send = async |connector: &Arc<Connector>, _: ProbeRequest| {
        running.set(running.get() + 1);
        most.set(running.get().max(most.get()));
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        order.borrow_mut().push(connector.id);
        running.set(running.get() - 1);
        Ok(answer(200))
    };
    let reports = run(check(&loaded, send, async |_: &Arc<Connector>| Ok(())));
    assert_eq!(most.get(), PROBES_AT_ONCE);
    assert_eq!(order.borrow().len(), 50);
    let names: Vec<String> = reports
        .iter()
        .map(|report| report.connector.clone())
        .collect();
    let expected: Vec<String> = loaded.connectors.iter().map(ToString::to_string).collect();
    assert_eq!(names, expected);
    assert!(reports.iter().all(Report::is_ready));
}
