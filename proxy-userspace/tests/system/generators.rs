//! Classes that make the credential themselves, with `generator.rego`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Result, ensure};
use testkit::{Content, SiteAuth};

use crate::support::{self, TOKEN, World, at, ok, stdout};

/// A class whose only authentication type has this generator, a Connector of it, its Secret.
fn documents(rego: &str) -> [String; 3] {
    let indented = rego.replace('\n', "\n          ");
    let class = format!(
        "apiVersion: connectors.postern.dev/v1alpha1\nkind: ConnectorClass\n\
         metadata:\n  name: own\nspec:\n  params:\n  - name: realm\n    default: blue\n  \
         auth:\n    types:\n    - name: token\n      secretType: Opaque\n      \
         params:\n      - name: token\n      generator:\n        rego: |\n          {indented}\n"
    );
    let connector = "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\n\
         metadata:\n  name: api\nspec:\n  connectorClassName: own\n  \
         address: https://api.test\n  caCertSecretRef:\n    name: ca\n  auth:\n    \
         name: token\n    secretRef:\n      name: token\n"
        .to_owned();
    let secret = support::secret("token", "Opaque", &[("token", TOKEN)]);
    [class, connector, secret]
}

#[test]
fn a_header_that_depends_on_the_request_is_made_for_each() -> Result<()> {
    let (world, nginx, _) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let manifest = world.manifest(&documents(
        "package proxy\n\
         auth = {\"position\": \"header\", \"auth\": {\"Authorization\": value}} {\n  \
         startswith(input.request.path, \"/v1/\")\n  \
         value := sprintf(\"Bearer %s\", [input.data.token])\n}",
    ))?;
    let script = "for path in v1/a v2/b v1/c; do \
                  curl --silent --write-out '%{http_code}\\n' https://api.test/$path; done";
    let text = stdout(&ok(world.run(&manifest, &["sh", "-c", script]))?);
    ensure!(
        text.contains("503") && text.contains("default/api") && text.contains("undefined"),
        "{text}"
    );
    ensure!(!text.contains(TOKEN), "{text}");
    let seen: Vec<_> = nginx
        .requests_after(2)?
        .into_iter()
        .map(|request| (request.uri, request.status))
        .collect();
    ensure!(
        seen == [("/v1/a".to_owned(), 200), ("/v1/c".to_owned(), 200)],
        "{seen:?}"
    );
    Ok(())
}

#[test]
fn a_query_takes_the_place_of_the_clients() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let site = world.site("api.test", 443, SiteAuth::None, Content::Json("{}".into()))?;
    let nginx = world.nginx(&[site])?;
    let manifest = world.manifest(&documents(
        "package proxy\nimport rego.v1\n\
         auth := {\"position\": \"query\", \"auth\": {\"key\": input.data.token, \
         \"realm\": input.params.realm}}",
    ))?;
    for version in ["--http1.1", "--http2"] {
        let url = "https://api.test/v1/x?a=%7E&key=own";
        let run = world.run(&manifest, &["curl", "--silent", "--fail", version, url]);
        ensure!(stdout(&ok(run)?) == "{}");
    }
    let expected = format!("/v1/x?a=%7E&key={TOKEN}&realm=blue");
    let seen = nginx.requests_after(2)?;
    ensure!(seen.iter().all(|it| it.uri == expected), "{seen:?}");
    Ok(())
}

#[test]
fn a_faulty_generator_is_named_before_anything_runs() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let manifest = world.manifest(&documents("package proxy\nauth := http.send({})"))?;
    for command in [&["run"][..], &["check"]] {
        let mut postern = world.postern(command);
        postern.arg("-f").arg(&manifest);
        if command == ["run"] {
            postern.args(["--", "true"]);
        }
        let output = support::output(postern)?;
        ensure!(output.status.code() == Some(125), "{output:?}");
        let log = support::stderr(&output);
        ensure!(
            log.contains("ConnectorClass own")
                && log.contains("line 2")
                && log.contains("http.send"),
            "{log}"
        );
    }
    Ok(())
}

/// A server without TLS at `api.test` that notes what comes, head and body as they are, and
/// answers each request with two bytes.
struct Listener {
    seen: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn start(world: &World) -> Result<Self> {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (notes, address) = (Arc::clone(&seen), at(80)?);
        // A thread stays in the network that it entered.
        let listener = thread::scope(|scope| {
            let bind = || -> Result<TcpListener> {
                world.sandbox.enter_network()?;
                Ok(TcpListener::bind(address)?)
            };
            scope.spawn(bind).join().expect("no panic")
        })?;
        thread::spawn(move || {
            // More than any test makes.
            for stream in listener.incoming().take(100).flatten() {
                let notes = Arc::clone(&notes);
                thread::spawn(move || Self::serve(&stream, &notes));
            }
        });
        Ok(Self { seen })
    }

    fn serve(mut stream: &std::net::TcpStream, notes: &Mutex<Vec<String>>) -> Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut text = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let line = line.to_ascii_lowercase().trim_end().to_owned() + "\n";
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse()?;
                }
                text += &line;
                if line == "\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let is_head = text.starts_with("head ");
            text += &String::from_utf8(body)?;
            notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
            let body = if is_head { "" } else { "ok" };
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
            stream.write_all(format!("{head}{body}").as_bytes())?;
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Runs curl with each list of arguments against `http://api.test/x` under Postern, with a
/// generator. Returns what the server saw.
fn requests(rego: &str, all: &[&str]) -> Result<Vec<String>> {
    let world = World::new(&["api.test"])?;
    let server = Listener::start(&world)?;
    let documents = documents(rego).map(|it| it.replace("https://", "http://"));
    let manifest = world.manifest(&documents)?;
    let calls = all.iter().map(|arguments| {
        format!("curl --silent --fail --max-time 60 --output /dev/null {arguments}")
    });
    let script = calls.collect::<Vec<_>>().join(" && ");
    ok(world.run(&manifest, &["sh", "-c", &script]))?;
    let seen = server.seen();
    ensure!(seen.len() == all.len(), "{seen:#?}");
    Ok(seen)
}

/// Target, framing and body of a request; fails if anything about its length is there twice.
fn framing(request: &str) -> Result<(String, Option<usize>, String)> {
    let (head, body) = request.split_once("\n\n").expect("an end of the head");
    ensure!(!head.contains("transfer-encoding"), "{request}");
    let lengths: Vec<_> = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "))
        .collect();
    ensure!(lengths.len() <= 1, "{request}");
    let length = lengths.first().map(|it| it.parse()).transpose()?;
    let target = head.lines().next().unwrap_or_default();
    Ok((target.to_owned(), length, body.to_owned()))
}

#[test]
fn a_body_that_is_replaced_has_its_own_length_whatever_it_had_before() -> Result<()> {
    let rego = "package proxy\nimport rego.v1\n\
                auth := {\"position\": \"body\", \"auth\": {\"key\": input.data.token}}";
    let json = "--header 'Content-Type: application/json'";
    let chunked = "--header 'Transfer-Encoding: chunked'";
    let seen = requests(
        rego,
        &[
            &format!("{json} --data '{{\"a\":1}}' http://api.test/x"),
            &format!("{json} {chunked} --data '{{\"a\":1}}' http://api.test/x"),
            &format!("{json} --data '{{\"key\":\"own\"}}' http://api.test/x"),
            &format!("{json} --request PUT --data '' http://api.test/x"),
            "http://api.test/x",
            "--head http://api.test/x",
        ],
    )?;
    let with_own = format!("{{\"a\":1,\"key\":\"{TOKEN}\"}}");
    let alone = format!("{{\"key\":\"{TOKEN}\"}}");
    for (request, (method, body)) in seen.iter().zip([
        ("post", &with_own),
        ("post", &with_own),
        ("post", &alone),
        ("put", &alone),
        ("get", &alone),
        ("head", &alone),
    ]) {
        let expected = (
            format!("{method} /x http/1.1"),
            Some(body.len()),
            body.clone(),
        );
        ensure!(framing(request)? == expected, "{request}");
        ensure!(
            request.contains("content-type: application/json\n"),
            "{request}"
        );
    }
    Ok(())
}

#[test]
fn a_query_and_a_header_change_nothing_of_the_framing() -> Result<()> {
    let query = "package proxy\nimport rego.v1\n\
                 auth := {\"position\": \"query\", \"auth\": {\"key\": input.data.token}}";
    let header = "package proxy\nimport rego.v1\n\
                  auth := {\"position\": \"header\", \"auth\": {\"Private-Token\": input.data.token}}";
    let calls = [
        "'http://api.test/x?a=b&key=own'",
        "--head http://api.test/x",
        "--header 'Private-Token: own' --data 'a=b' http://api.test/x",
    ];
    let seen = requests(query, &calls)?;
    for (request, (target, length, body)) in seen.iter().zip([
        (format!("get /x?a=b&key={TOKEN} http/1.1"), None, ""),
        (format!("head /x?key={TOKEN} http/1.1"), None, ""),
        (format!("post /x?key={TOKEN} http/1.1"), Some(3), "a=b"),
    ]) {
        ensure!(
            framing(request)? == (target, length, body.to_owned()),
            "{request}"
        );
    }
    let seen = requests(header, &calls)?;
    for (request, (target, length, body)) in seen.iter().zip([
        ("get /x?a=b&key=own http/1.1", None, ""),
        ("head /x http/1.1", None, ""),
        ("post /x http/1.1", Some(3), "a=b"),
    ]) {
        let expected = (target.to_owned(), length, body.to_owned());
        ensure!(framing(request)? == expected, "{request}");
        let tokens: Vec<_> = request
            .lines()
            .filter(|line| line.starts_with("private-token: "))
            .collect();
        ensure!(tokens == [format!("private-token: {TOKEN}")], "{request}");
    }
    Ok(())
}

#[test]
fn a_body_goes_to_an_upstream_over_tls_and_http2_as_well() -> Result<()> {
    let world = World::new(&["api.test"])?;
    let server = Listener::start(&world)?;
    let proxied = Content::Proxy(at(80)?);
    let _nginx = world.nginx(&[world.site("api.test", 443, SiteAuth::None, proxied)?])?;
    let manifest = world.manifest(&documents(
        "package proxy\nimport rego.v1\n\
         auth := {\"position\": \"body\", \"contentType\": \
         \"application/x-www-form-urlencoded\", \"auth\": {\"key\": input.data.token}}",
    ))?;
    let url = "https://api.test/x";
    for version in ["--http1.1", "--http2"] {
        for data in [&["--data", "a=b&key=own"][..], &[]] {
            let curl = ["curl", "--silent", "--fail", version, url];
            let command = [&curl[..], data].concat();
            ensure!(stdout(&ok(world.run(&manifest, &command))?) == "ok");
        }
    }
    for (request, own) in server.seen().iter().zip(["a=b&", "", "a=b&", ""]) {
        let body = format!("{own}key={TOKEN}");
        let (_, length, found) = framing(request)?;
        ensure!((length, found) == (Some(body.len()), body), "{request}");
    }
    Ok(())
}
