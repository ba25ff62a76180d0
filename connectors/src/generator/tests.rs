use super::*;

const DATA: [(&str, &str); 2] = [("token", "hunter2"), ("user", "me")];

fn generated(rego: &str) -> Result<Generated, GeneratorError> {
    let data = DATA.map(|(key, value)| (key.to_owned(), value.into()));
    let params = [("realm", "blue"), ("count", "1000000000")];
    let params = params.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Generated::new(rego, data.into(), params.into())
}

/// What a generator adds to a request, in one line.
fn shown(generated: &Generated) -> Result<String, GeneratorError> {
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", http::HeaderValue::from_static("7"));
    let body = serde_json::json!({"grant": "code"});
    let request = Request {
        method: &Method::POST,
        host: "api.example.com",
        path: "/v1/x",
        query: "a=1&b=%20&a=2",
        headers: &headers,
        body: body.as_object().filter(|_| generated.needs_body()),
    };
    let injection = generated.injection(&request)?;
    let mut shown = Vec::new();
    match &*injection {
        Injection::Header(fields) => {
            for (name, value) in fields {
                assert!(value.is_sensitive());
                shown.push(format!("{name}: {}", value.to_str().expect("text")));
            }
        }
        Injection::Query(parameters) => {
            for (key, value) in parameters {
                shown.push(format!("?{key}={}", **value));
            }
        }
        Injection::Body { kind, fields } => {
            for (key, field) in fields {
                let value = match field {
                    Field::Text(text) => format!("{:?}", **text),
                    Field::Literal(literal) => literal.clone(),
                };
                shown.push(format!("{kind:?} {key}={value}"));
            }
        }
    }
    shown.sort();
    Ok(shown.join(", "))
}

#[test]
fn generators_of_both_versions_make_headers_queries_and_bodies() {
    for (rego, expected, fixed) in [
        (
            r#"package proxy
            auth := {"position": "header", "auth": {"Private-Token": input.data.token}}"#,
            "private-token: hunter2",
            true,
        ),
        (
            r#"package proxy
            auth = {"position": "header", "auth": {"Authorization": value}} {
                value := concat(" ", ["Basic", base64.encode(concat(":", [input.data.user, input.data.token]))])
            }"#,
            "authorization: Basic bWU6aHVudGVyMg==",
            true,
        ),
        (
            r#"package proxy
            import rego.v1
            auth := {"position": "query", "auth": {"key": input.data.token, "realm": input.params.realm}} if {
                input.data.token != ""
            }"#,
            "?key=hunter2, ?realm=blue",
            true,
        ),
        (
            r#"package proxy
            import future.keywords.if
            auth := {"position": "body", "contentType": "application/json", "auth": {"t": input.data.token, "n": 7, "b": true}} if { true }"#,
            "Json b=true, Json n=7, Json t=\"hunter2\"",
            true,
        ),
        (
            r#"package proxy
            auth := {"position": "body", "contentType": "application/x-www-form-urlencoded", "auth": {"client_secret": input.data.token}} if input.request.body.grant == "code""#,
            "Form client_secret=\"hunter2\"",
            false,
        ),
        (
            r#"package proxy
            auth := {"position": "header", "auth": {"X-A": value}} if {
                r := input.request
                value := sprintf("%s %s %s %s %s %s", [r.method, r.host, r.path, r.query.a[1], r.query.b[0], r.headers["X-Request-Id"][0]])
            }"#,
            "x-a: POST api.example.com /v1/x 2   7",
            false,
        ),
        (
            r#"package proxy
            import input.data as secret
            sign(text) := crypto.hmac.sha256(text, secret.token)
            auth := {"position": "header", "auth": {"X-Signature": sign("x")}}"#,
            "x-signature: 8250acde6b5be8323346b9bce8530320f3857aa132e064e21d97325dfc096386",
            true,
        ),
        (
            r#"package proxy
            auth := {"position": "header", "auth": {"X-Host": "web"}} if input.request.host == "example.com"
            else := {"position": "header", "auth": {"X-Host": "other"}}"#,
            "x-host: other",
            false,
        ),
    ] {
        let generated = generated(rego).unwrap_or_else(|error| panic!("{rego}: {error}"));
        assert_eq!(generated.fixed.is_some(), fixed, "{rego}");
        assert_eq!(shown(&generated).as_deref(), Ok(expected), "{rego}");
        assert!(!format!("{generated:?} {:?}", generated.fixed).contains("hunter2"));
    }
}

/// The module's body after its package, and a part of what is said of it.
fn refusal(body: &str) -> String {
    let rego = format!("package proxy\n{body}");
    match generated(&rego).and_then(|generated| shown(&generated)) {
        Ok(shown) => panic!("{body}: accepted, and adds {shown}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_broken_is_named_with_its_line() {
    for (body, expected) in [
        ("auth := {", "line 2"),
        ("auth := {\"position\": }", "line 2"),
        (
            "\nx := http.send({})",
            "line 3: `http.send` is not available",
        ),
        (
            "x := numbers.range(1, to_number(input.params.count))",
            "`numbers.range`",
        ),
        ("x if { print(input.data.token) }", "`print`"),
        ("x := opa.runtime()", "`opa.runtime`"),
        ("x := sprintf(input.params.realm, [1])", "format of sprintf"),
        ("x := sprintf(\"%999999999d\", [1])", "format of sprintf"),
        ("auth := 1 if { true with input as 1 }", "`with`"),
        ("import data.other\nauth := 1", "import nothing"),
        ("auths := 1", "no rule `auth`"),
        (
            "f(x) := f(x)\nauth := f(1)",
            "line 2: the function `f` calls itself",
        ),
        (
            "f(x) := g(x)\ng(x) := data.proxy.f(x)\nauth := f(1)",
            "calls itself",
        ),
        ("auth := r\nr := auth", "line"),
        ("auth := missing", "line 2"),
    ] {
        let said = refusal(body);
        assert!(said.contains(expected), "{body}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let said = generated("package other\nauth := 1").expect_err("another package");
    assert!(said.to_string().contains("package proxy"), "{said}");
}

#[test]
fn what_runs_for_long_or_deep_is_ended() {
    // Ten to the power of 18 steps.
    let loops = "a := [1,2,3,4,5,6,7,8,9,0]\n\
        auth := [1 | some b in a; some c in a; some d in a; some e in a; some f in a; \
        some g in a; some h in a; some i in a; some j in a; some k in a; some l in a; \
        some m in a; some n in a; some o in a; some p in a; some q in a; some r in a; \
        some s in a]";
    assert_eq!(refusal(loops), GeneratorError::Time.to_string());
    let every = "a := [1,2,3,4,5,6,7,8,9,0]\n\
        auth := 1 if { every b in a { every c in a { every d in a { every e in a { \
        every f in a { every g in a { every h in a { b + c + d + e + f + g + h < 100 } } } } } } } }";
    assert_eq!(refusal(every), GeneratorError::Time.to_string());

    // One recursion of the engine for each of these.
    let sum = vec!["1"; 2_000].join(" +\n");
    assert!(refusal(&format!("auth := {sum}")).contains("nested too deeply"));
    let path = "[0]".repeat(300);
    assert!(refusal(&format!("auth := input.data{path}")).contains("too long"));
    for (open, close) in [("[", "]"), ("{", "}"), ("{\"a\": ", "}")] {
        let nested = format!("auth := {}1{}", open.repeat(30), close.repeat(30));
        assert!(refusal(&nested).contains("line 2"), "{open}");
    }
    let rules: Vec<String> = (0..40).map(|n| format!("r{} := r{n}", n + 1)).collect();
    assert!(refusal(&rules.join("\n")).contains("more than 32 rules"));
    let large = "#".repeat(limits::GENERATOR + 1);
    assert!(refusal(&large).contains("larger than 32 KiB"));
}

#[test]
fn as_deep_as_is_allowed_fits_on_the_stack() {
    // Each rule refers to the next one from within the deepest expression.
    let depth = 12;
    let mut rules: Vec<String> = (1..limits::GENERATOR_RULES)
        .map(|n| {
            let (open, close) = ("(".repeat(depth), ")".repeat(depth));
            let last = n + 1 == limits::GENERATOR_RULES;
            let next = if last {
                "1".to_owned()
            } else {
                format!("r{}", n + 1)
            };
            format!("r{n} := abs({open}{next}{close})")
        })
        .collect();
    rules.push(
        "auth := {\"position\": \"header\", \"auth\": {\"x\": sprintf(\"%d\", [r1])}}".to_owned(),
    );
    let generated = generated(&format!("package proxy\n{}", rules.join("\n")));
    assert_eq!(
        shown(&generated.expect("a generator")).as_deref(),
        Ok("x: 1")
    );
}

#[test]
fn results_that_no_request_can_carry_are_refused() {
    let header =
        |entries: &str| format!("auth := {{\"position\": \"header\", \"auth\": {entries}}}");
    for (body, expected) in [
        ("auth := {\"position\": \"header\", \"auth\": {\"x\": input.data.none}}".to_owned(), "undefined"),
        ("auth := 1 if false".to_owned(), "undefined"),
        ("auth := 1".to_owned(), "no object"),
        ("auth := {\"position\": \"trailer\", \"auth\": {\"x\": \"y\"}}".to_owned(), "`position`"),
        ("auth := {\"position\": \"body\", \"contentType\": \"text/plain\", \"auth\": {\"x\": \"y\"}}".to_owned(), "`contentType`"),
        ("auth := {\"position\": \"header\", \"auth\": {\"x\": \"y\"}, \"more\": 1}".to_owned(), "other keys"),
        (header("{}"), "entries"),
        (header("[input.data.token]"), "entries"),
        (header("{\"x\": 1}"), "no text"),
        (header("{\"x y\": \"z\"}"), "no name of a header"),
        (header("{\"x\": concat(\"\\r\\n\", [\"a\", input.data.token])}"), "line break"),
        (header("{\"x\": \"a\\u0000\"}"), "control character"),
        (header("{\"Host\": input.data.token}"), "header host"),
        (header("{\"Content-Length\": \"1\"}"), "header content-length"),
        (header("{\"transfer-encoding\": \"chunked\"}"), "header transfer-encoding"),
        (header("{\"Connection\": \"x\"}"), "header connection"),
        (header("{sprintf(\"x%d\", [n]): \"y\" | some n in [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33]}"), "more than 32 entries"),
        (format!("big := concat(\"\", [\"a\" | some i in [1,2,3,4,5,6,7,8,9,0]; some j in [1,2,3,4,5,6,7,8,9,0]; some k in [1,2,3,4,5,6,7,8,9,0]])\nhuge := concat(\"\", [big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big,big])\n{}", header("{\"x\": huge}")), "more than 32 KiB"),
        ("auth := {\"position\": \"query\", \"auth\": {\"x\": \"a\\n\"}}".to_owned(), "control character"),
        ("auth := {\"position\": \"body\", \"auth\": {\"x\": [1]}}".to_owned(), "no text, number"),
        (header("{\"x\": base64.decode(input.data.token)}"), "fails on line 2"),
        (format!("{}\n{}", header("{\"x\": \"1\"}"), header("{\"x\": \"2\"}")), "two bodies"),
    ] {
        let said = refusal(&body);
        assert!(said.contains(expected), "{body}: {said}");
        assert!(!said.contains("hunter2"), "{body}: {said}");
    }
}

#[test]
fn what_a_tenant_gives_does_not_multiply() {
    let big = "9".repeat(60_000);
    let data = [
        ("token".to_owned(), "1e999999999".into()),
        ("big".to_owned(), big.into()),
    ];
    for value in [
        "replace(input.data.big, \"9\", input.data.big)",
        "concat(input.data.big, split(input.data.big, \"9\"))",
        "sprintf(\"%d\", [to_number(input.data.token)])",
        "sprintf(\"%v\", [json.unmarshal(input.data.token)])",
    ] {
        let rego = format!(
            "package proxy\nauth := {{\"position\": \"header\", \"auth\": {{\"x\": {value}}}}}"
        );
        let generated = Generated::new(&rego, data.clone().into(), BTreeMap::new());
        assert!(generated.is_err(), "{value}: {generated:?}");
    }
    let much = [("k".to_owned(), "x".repeat(limits::GENERATOR_INPUT).into())];
    let rego = "package proxy\nauth := 1";
    let error = Generated::new(rego, much.into(), BTreeMap::new()).expect_err("too much");
    assert_eq!(error, GeneratorError::Input);
}
