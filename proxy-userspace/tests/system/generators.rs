//! Classes that make the credential themselves, with `generator.rego`.

use anyhow::{Result, ensure};
use testkit::{Content, SiteAuth};

use crate::support::{self, TOKEN, World, ok, stdout};

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
