//! What is sent, and to whom.

use http::header::AUTHORIZATION;

use super::*;

/// `Basic me:hunter2`.
const BASIC: &str = "Basic bWU6aHVudGVyMg==";

/// Method, URL and `Authorization`.
fn line(plan: &Plan) -> String {
    match plan {
        Plan::Nothing => "nothing".to_owned(),
        Plan::Impossible { reason, message } => format!("{reason}: {message}"),
        Plan::Probe(PlannedProbe { request, .. }) => {
            let header = request.headers.get(AUTHORIZATION);
            let header = header.map_or("-", |value| value.to_str().expect("text"));
            format!("{} {} {header}", request.method, request.url)
        }
    }
}

#[test]
fn built_in_classes_probe_as_documented() {
    let auth = "auth: {secretRef: {name: basic}}";
    let git = "auth: {secretRef: {name: basic}, params: [{name: repository, value: org/repo.git}]}";
    let bearer = "auth: {secretRef: {name: bearer}}";
    for (class, address, auth, liveness, authentication) in [
        (
            "oci",
            "https://r.example.com:5000",
            auth,
            "https://r.example.com:5000/v2/",
            "nothing".to_owned(),
        ),
        (
            "harbor",
            "https://r.example.com",
            auth,
            "https://r.example.com/api/v2.0/ping",
            format!("GET https://r.example.com/api/v2.0/users/current {BASIC}"),
        ),
        (
            "git",
            "https://g.example.com/prefix",
            git,
            "https://g.example.com/",
            format!(
                "GET https://g.example.com/org/repo.git/info/refs?service=git-upload-pack {BASIC}"
            ),
        ),
        (
            "npm",
            "https://n.example.com/a/b/",
            auth,
            "https://n.example.com/",
            format!("GET https://n.example.com/a/b/ {BASIC}"),
        ),
        (
            "npm",
            "https://n.example.com",
            auth,
            "https://n.example.com/",
            format!("GET https://n.example.com/ {BASIC}"),
        ),
        (
            "maven",
            "http://m.example.com/repo",
            auth,
            "http://m.example.com/",
            format!("GET http://m.example.com/repo/ {BASIC}"),
        ),
        (
            "pypi",
            "https://p.example.com/root",
            auth,
            "https://p.example.com/",
            format!("GET https://p.example.com/root/simple/ {BASIC}"),
        ),
        (
            "generic-basic",
            "https://s.example.com/x",
            auth,
            "https://s.example.com/x/",
            format!("GET https://s.example.com/x/ {BASIC}"),
        ),
        (
            "generic-bearer",
            "https://s.example.com",
            bearer,
            "https://s.example.com/",
            "GET https://s.example.com/ Bearer hunter2".to_owned(),
        ),
    ] {
        let spec = format!("connectorClassName: {class}, address: '{address}', {auth}");
        let loaded = load(&spec, "");
        let (connector, origin) = first(&loaded);
        assert_eq!(
            line(&crate::probe::liveness(connector, origin)),
            format!("GET {liveness} -"),
            "{class}"
        );
        assert_eq!(
            line(&crate::probe::authentication(connector, origin)),
            authentication,
            "{class}"
        );
    }
}

#[test]
fn without_a_secret_no_header_is_sent() {
    let loaded = load(
        "connectorClassName: npm, address: https://n.example.com, auth: {name: basicAuth}",
        "",
    );
    let (connector, origin) = first(&loaded);
    assert_eq!(
        line(&authentication(connector, origin)),
        "GET https://n.example.com/ -"
    );
    let loaded = load(
        "connectorClassName: npm, address: https://n.example.com",
        "",
    );
    let (connector, origin) = first(&loaded);
    assert_eq!(line(&authentication(connector, origin)), "nothing");
}

#[test]
fn a_missing_parameter_is_for_the_check_to_say() {
    for params in [
        "",
        ", params: [{name: repository, value: ''}]",
        ", params: [{name: other, value: x}]",
    ] {
        let spec = format!(
            "connectorClassName: git, address: https://g.example.com, auth: {{secretRef: {{name: basic}}{params}}}"
        );
        let loaded = load(&spec, "");
        let (connector, origin) = first(&loaded);
        assert_eq!(
            line(&authentication(connector, origin)),
            "MissingParams: the authentication probe of class git needs `repository`: add it to \
             spec.auth.params"
        );
    }
}

/// Renders a path template for a Connector with a parameter and a Secret.
fn path(template: &str) -> String {
    let class = format!(
        "  params: [{{name: repo, default: a/b}}]
  auth: {{types: [{{name: a, secretType: kubernetes.io/basic-auth}}]}}
  authProbes:
  - authName: a
    params: [{{name: one, default: dx}}, {{name: two, default: dy}}]
    probe:
      http:
        path: |-
          {}",
        template.replace('\n', "\n          ")
    );
    let spec = "connectorClassName: own, address: 'https://me.example.com:8443/p/q', \
                auth: {name: a, secretRef: {name: basic}, params: [{name: two, value: given}]}";
    let loaded = load(spec, &class);
    let (connector, origin) = first(&loaded);
    match authentication(connector, origin) {
        Plan::Probe(probe) => {
            let url = &probe.request.url;
            let query = url
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default();
            format!("{}{query}", url.path())
        }
        plan => line(&plan),
    }
}

#[test]
fn templates_have_go_and_sprig() {
    for (template, expected) in [
        ("plain", "/plain"),
        ("//plain", "/plain"),
        (
            "{{ .Connector.Name }}-{{ .Connector.Namespace }}",
            "/c-default",
        ),
        ("{{ .Connector.Spec.ConnectorClassName }}", "/own"),
        ("{{- /* comment */ -}} x {{- \"y\" -}} z", "/xyz"),
        ("{{ (urlParse .Connector.Spec.Address).path }}/z", "/p/q/z"),
        (
            "{{ $u := urlParse .Connector.Spec.Address }}{{ $u.scheme }}/{{ $u.host }}/{{ $u.hostname }}",
            "/https/me.example.com:8443/me.example.com",
        ),
        (
            "{{ $u := urlParse .Connector.Spec.Address }}{{ index $u \"path\" }}",
            "/p/q",
        ),
        (
            "{{ range .Connector.Spec.Params }}{{ if eq .Name \"repo\" }}{{ .Value.StringVal }}{{ end }}{{ end }}",
            "/a/b",
        ),
        (
            "{{ range $i, $p := .Connector.Spec.Auth.Params }}{{ $p.Name }}={{ $p.Value.StringVal }}/{{ end }}",
            "/two=given/one=dx/",
        ),
        (
            "{{ $r := \"none\" }}{{ range .Connector.Spec.Auth.Params }}{{ if eq .Name \"two\" }}{{ $r = .Value.StringVal }}{{ end }}{{ end }}{{ $r }}",
            "/given",
        ),
        (
            "{{ (index .Connector.Spec.Params 0).Value.StringVal }}",
            "/a/b",
        ),
        ("{{ if not .Secret }}none{{ else }}some{{ end }}", "/some"),
        (
            "{{ if and .Secret (ne .Connector.Name \"x\") }}yes{{ end }}",
            "/yes",
        ),
        ("{{ .Secret.StringData.username | b64enc }}", "/bWU="),
        ("{{ index .Secret.StringData \"username\" }}", "/me"),
        (
            "{{ printf \"%s:%s\" .Secret.StringData.username \"x\" | b64enc }}",
            "/bWU6eA==",
        ),
        ("x?q={{ urlquery \"a b&c\" }}", "/x?q=a+b%26c"),
        (
            "{{ trimPrefix \"/\" \"/x\" }}{{ \"y/\" | trimSuffix \"/\" }}",
            "/xy",
        ),
        (
            "{{ splitList \"/\" \"a/b/c\" | first }}-{{ splitList \"/\" \"a/b/c\" | last }}",
            "/a-c",
        ),
        (
            "{{ $l := list \"a\" \"b\" }}{{ $l = append $l \"c\" }}{{ join \"+\" $l }}",
            "/a+b+c",
        ),
        ("{{ default \"d\" \"\" }}{{ \"v\" | default \"d\" }}", "/dv"),
        (
            "{{ if hasPrefix \"a\" \"ab\" }}{{ replace \"b\" \"c\" \"ab\" | lower }}{{ end }}",
            "/ac",
        ),
        ("{{ with .Connector.Spec.Auth }}{{ .Name }}{{ end }}", "/a"),
        ("{{ len .Connector.Spec.Params }}", "/1"),
        ("{{ .Connector.Spec.Auth.SecretRef.Name }}", "/basic"),
    ] {
        assert_eq!(path(template), expected, "{template}");
    }
}

#[test]
fn templates_that_fail_show_no_secret() {
    for template in [
        "{{ .Connector.Nothing }}",
        "{{ nothing }}",
        "{{ if }}",
        "{{ index .Connector.Spec.Params 7 }}",
        "{{ first .Secret.StringData.password }}",
        "{{ .Secret.StringData.password.x }}",
        "{{ index .Secret.StringData.password 99 }}",
        "{{ call .Secret.StringData.password }}",
        "{{ template \"x\" .Secret.StringData.password }}",
        "{{ printf \"%d\" 1 | append .Secret.StringData.password }}",
        "a\\b",
        "a#b",
    ] {
        let result = path(template);
        assert!(
            result.starts_with("InvalidProbe: the probe of class own is not usable: http.path"),
            "{template}: {result}"
        );
        assert!(!result.contains("hunter2"), "{template}: {result}");
    }
}

#[test]
fn a_request_does_not_show_its_secrets() {
    let loaded = load(
        "connectorClassName: generic-bearer, address: https://s.example.com, auth: {secretRef: {name: bearer}}",
        "",
    );
    let (connector, origin) = first(&loaded);
    let shown = format!("{:?}", authentication(connector, origin));
    assert!(
        shown.contains("https://s.example.com") && !shown.contains("hunter2"),
        "{shown}"
    );
}

/// URL of the authentication probe of a class whose probe has these fields.
fn target(fields: &str) -> String {
    let class = format!(
        "  addressExtensions: [{{name: api, default: 'https://api.example.com'}}]
  auth: {{types: [{{name: a, secretType: kubernetes.io/basic-auth, optional: true}}]}}
  livenessProbe: {{http: {{path: /x, {fields}}}}}
  authProbes: [{{authName: a, probe: {{http: {{path: /x, {fields}}}}}}}]"
    );
    let spec = "connectorClassName: own, address: https://me.example.com, auth: {secretRef: {name: basic}}";
    let loaded = load(spec, &class);
    let (connector, origin) = first(&loaded);
    let liveness = line(&crate::probe::liveness(connector, origin));
    let authentication = line(&crate::probe::authentication(connector, origin));
    if liveness == authentication {
        liveness
    } else {
        format!("{liveness} | {authentication}")
    }
}

#[test]
fn a_credential_goes_to_addresses_of_the_connector_only() {
    const REFUSED: &str = "is neither the address of the Connector nor one of its extensions, so \
                           no credential is sent there";
    for (fields, expected) in [
        ("method: POST", "POST https://me.example.com/x -".to_owned()),
        (
            "host: me.example.com",
            "GET https://me.example.com/x -".to_owned(),
        ),
        (
            "scheme: https, host: api.example.com",
            "GET https://api.example.com/x -".to_owned(),
        ),
        (
            "scheme: https, host: 'api.{{ trimPrefix \"me.\" (urlParse .Connector.Spec.Address).host }}'",
            "GET https://api.example.com/x -".to_owned(),
        ),
        // Another host is asked in plain HTTP unless the class says otherwise.
        (
            "host: api.example.com",
            format!(
                "GET http://api.example.com/x - | InvalidProbe: the probe of class own is not usable: \
             http://api.example.com {REFUSED}"
            ),
        ),
        (
            "scheme: http",
            format!(
                "GET http://me.example.com/x - | InvalidProbe: the probe of class own is not usable: \
             http://me.example.com {REFUSED}"
            ),
        ),
        (
            "scheme: https, host: evil.example.com",
            format!(
                "GET https://evil.example.com/x - | InvalidProbe: the probe of class own is not usable: \
             https://evil.example.com {REFUSED}"
            ),
        ),
        (
            "host: 'a/b'",
            "InvalidProbe: the probe of class own is not usable: http.host does not come \
                         out as a host, or host and port"
                .to_owned(),
        ),
    ] {
        assert_eq!(target(fields), expected, "{fields}");
    }
}

#[test]
fn an_api_probe_needs_an_address_of_its_own() {
    let class = |api: &str| {
        format!("  {api}\n  livenessProbe: {{api: {{path: '/check/{{{{ .Connector.Name }}}}'}}}}")
    };
    for (api, expected) in [
        (
            "api: {uri: 'https://api.example.com/prefix/'}",
            "GET https://api.example.com/prefix/check/c -",
        ),
        (
            "api: {ref: {kind: Service, name: git}, uri: /prefix}",
            "nothing",
        ),
        ("params: []", "nothing"),
    ] {
        let loaded = load(
            "connectorClassName: own, address: https://me.example.com",
            &class(api),
        );
        let (connector, origin) = first(&loaded);
        assert_eq!(line(&liveness(connector, origin)), expected, "{api}");
    }
}
