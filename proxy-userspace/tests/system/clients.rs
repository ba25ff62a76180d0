//! Clients with TLS of their own making: each gets through with Postern's authority, in the HTTP
//! version that it offers, and is counted when it trusts another one.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use testkit::{Content, SiteAuth};

use crate::support::{self, TOKEN, World, counter, ok, output, stderr, stdout};

/// Where Debian's Python finds what Debian packages; another one may come first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// A client that asks `https://api.test/` with a script of the shell.
struct Client<'a> {
    /// Trusts what Postern says that it should.
    trusting: &'a str,
    /// Trusts nobody but the authority in `$OTHER_CA`, which signed for the upstream.
    untrusting: &'a str,
    /// What the upstream logs.
    protocol: &'a str,
    /// What Postern takes for the reason: an alert, or that the client went away.
    reason: &'a str,
}

const ALERT: &str = "does not trust Postern's certificate for api.test";
const SILENCE: &str = "closed the connection without a word";

impl Client<'_> {
    fn verify(&self) -> Result<()> {
        let (world, nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
        let run = |script: &str| {
            let mut run = world.run_with(&manifest, &["--stats"], &["bash", "-c", script]);
            prepared(&mut run, &world);
            run
        };
        let trusted = ok(run(self.trusting))?;
        ensure!(stdout(&trusted).contains("{}"), "{trusted:?}");
        ensure!(
            counter(&trusted, "untrusting")? == 0,
            "{}",
            stderr(&trusted)
        );
        ensure!(counter(&trusted, "injected")? == 1, "{}", stderr(&trusted));
        let seen = nginx.requests_after(1)?;
        ensure!(
            seen.len() == 1 && seen[0].protocol == self.protocol,
            "{seen:?}"
        );
        ensure!(
            seen[0].authorization.as_deref() == Some(&format!("Bearer {TOKEN}")),
            "{seen:?}"
        );

        // What was counted is told once the command is gone, however slow the machine is.
        let patient = format!("{}; status=$?; sleep 2; exit $status", self.untrusting);
        let untrusted = output(run(&patient))?;
        ensure!(!untrusted.status.success(), "{untrusted:?}");
        let log = stderr(&untrusted);
        ensure!(counter(&untrusted, "untrusting")? == 1, "{log}");
        ensure!(log.contains(self.reason), "{log}");
        ensure!(nginx.requests()?.len() == 1, "{:?}", nginx.requests());
        Ok(())
    }
}

/// What the machine that runs the tests makes its own programs trust plays no part.
fn prepared(command: &mut Command, world: &World) {
    command
        .env("OTHER_CA", world.pki.ca())
        .env("FILES", world.files.path())
        .env_remove("NODE_EXTRA_CA_CERTS")
        .env_remove("SSL_CERT_DIR");
}

#[test]
fn openssl() -> Result<()> {
    let request = "printf 'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: close\\r\\n\\r\\n' | \
                   openssl s_client -quiet -ign_eof -connect api.test:443 \
                   -servername api.test -verify_hostname api.test -verify_return_error";
    for version in ["-tls1_2", "-tls1_3"] {
        Client {
            trusting: &format!("{request} {version}"),
            untrusting: &format!("set -o pipefail; {request} {version} -CAfile $OTHER_CA"),
            protocol: "HTTP/1.1",
            reason: ALERT,
        }
        .verify()
        .context(version)?;
    }
    Ok(())
}

#[test]
fn curl() -> Result<()> {
    for (version, protocol) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
        for tls in ["--tlsv1.3", "--tls-max 1.2"] {
            let request = format!("curl --silent {version} {tls}");
            Client {
                trusting: &format!("{request} https://api.test/"),
                untrusting: &format!("{request} --cacert $OTHER_CA https://api.test/"),
                protocol,
                reason: ALERT,
            }
            .verify()
            .context(request)?;
        }
    }
    Ok(())
}

/// HTTP/2 without TLS can only be known beforehand (RFC 9113, section 3.3).
#[test]
fn curl_without_tls() -> Result<()> {
    for (version, options) in [("--http1.1", ""), ("--http2-prior-knowledge", "proto h2")] {
        let world = World::new(&["api.test"])?;
        let _haproxy = world.haproxy(80, options)?;
        let manifest = world.manifest(&support::bearer("api", "http://api.test"))?;
        let curl = ["curl", "--silent", version, "http://api.test/"];
        let answer = ok(world.run_with(&manifest, &["--stats"], &curl)).context(version)?;
        ensure!(stdout(&answer) == "yes", "{version}: {answer:?}");
        ensure!(counter(&answer, "injected")? == 1);
    }
    Ok(())
}

#[test]
fn python_requests() -> Result<()> {
    let script = "import os, requests; \
                  print(requests.get(\"https://api.test/\", verify=os.environ[\"TRUST\"]).text)";
    Client {
        trusting: &format!("TRUST=$REQUESTS_CA_BUNDLE {PYTHON} -c '{script}'"),
        untrusting: &format!("TRUST=$OTHER_CA {PYTHON} -c '{script}'"),
        protocol: "HTTP/1.1",
        reason: ALERT,
    }
    .verify()
}

/// Its HTTP client takes its authorities from the environment, and none when they are given.
#[test]
fn node() -> Result<()> {
    let request = |options: &str| {
        format!(
            "const options = {options}; \
             require(\"https\").get(\"https://api.test/\", options, answer => answer.pipe(process.stdout)) \
             .on(\"error\", error => {{ console.error(error); process.exit(1); }});"
        )
    };
    let other = request("{ ca: require(\"fs\").readFileSync(process.env.OTHER_CA) }");
    Client {
        trusting: &format!("node -e '{}'", request("{}")),
        untrusting: &format!("node -e '{other}'"),
        protocol: "HTTP/1.1",
        reason: SILENCE,
    }
    .verify()?;

    let request = |options: &str| {
        format!(
            "const client = require(\"http2\").connect(\"https://api.test/\", {options}); \
             client.on(\"error\", error => {{ console.error(error); process.exit(1); }}); \
             const stream = client.request({{ \":path\": \"/\" }}); \
             stream.pipe(process.stdout); stream.on(\"close\", () => client.close());"
        )
    };
    let other = request("{ ca: require(\"fs\").readFileSync(process.env.OTHER_CA) }");
    Client {
        trusting: &format!("node -e '{}'", request("{}")),
        untrusting: &format!("node -e '{other}'"),
        protocol: "HTTP/2.0",
        reason: SILENCE,
    }
    .verify()
    .context("HTTP/2")
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
public class Get {
    public static void main(String[] version) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(version[0])).build();
        var request = HttpRequest.newBuilder(URI.create("https://api.test/")).build();
        System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"#;

/// It has a key store of its own, into which the root is put.
#[test]
fn java() -> Result<()> {
    let get = |trusted: &str, version: &str| {
        format!(
            "cd $(mktemp -d -p $FILES); cat > Get.java <<'EOF'\n{JAVA}\nEOF\n\
             keytool -importcert -noprompt -alias ca -file \"{trusted}\" -keystore trust \
             -storetype PKCS12 -storepass changeit 2> keytool.log && \
             java -Xshare:auto -XX:TieredStopAtLevel=1 -Djavax.net.ssl.trustStore=trust \
             -Djavax.net.ssl.trustStorePassword=changeit Get.java {version}"
        )
    };
    for (version, protocol) in [("HTTP_1_1", "HTTP/1.1"), ("HTTP_2", "HTTP/2.0")] {
        Client {
            trusting: &get("$NODE_EXTRA_CA_CERTS", version),
            untrusting: &get("$OTHER_CA", version),
            protocol,
            reason: SILENCE,
        }
        .verify()
        .context(version)?;
    }
    Ok(())
}

/// skopeo is a Go program.
#[test]
fn go() -> Result<()> {
    let world = World::new(&["registry.test"])?;
    let _registry = world.registry("registry.test", 443)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test"))?;
    let list = |trusted: &str| -> Result<Output> {
        let nobody = world.files.write("auth.json", "{}")?;
        let script = format!(
            "{trusted} skopeo list-tags --authfile {} docker://registry.test/team/app",
            nobody.display()
        );
        let mut run = world.run_with(&manifest, &["--stats"], &["bash", "-c", &script]);
        prepared(&mut run, &world);
        output(run)
    };
    // There is no such repository, which the registry tells only those that it knows.
    let trusted = list("")?;
    let log = stderr(&trusted);
    ensure!(log.contains("404 (Not Found)"), "{log}");
    ensure!(counter(&trusted, "untrusting")? == 0 && counter(&trusted, "injected")? > 0);
    let untrusted = list("SSL_CERT_FILE=$OTHER_CA SSL_CERT_DIR=/nonexistent")?;
    let log = stderr(&untrusted);
    ensure!(counter(&untrusted, "untrusting")? > 0, "{log}");
    ensure!(
        log.contains("does not trust Postern's certificate for registry.test"),
        "{log}"
    );
    Ok(())
}

/// Debian's git speaks TLS by `GnuTLS`.
#[test]
fn git() -> Result<()> {
    let world = World::new(&["git.test"])?;
    let repositories = world.files.join("repositories");
    testkit::git::bare_repository(&repositories.join("team/demo.git"))?;
    let auth = SiteAuth::Basic {
        user: support::USER.into(),
        password: support::PASSWORD.into(),
    };
    let _nginx =
        world.nginx(&[world.site("git.test", 443, auth, Content::Git(repositories))?])?;
    let manifest = world.manifest(&support::basic("git", "git", "https://git.test"))?;
    let list = |trusted: &str| -> Result<Output> {
        let script = format!("{trusted} git ls-remote https://git.test/team/demo.git");
        let mut run = world.run_with(&manifest, &["--stats"], &["bash", "-c", &script]);
        testkit::git::isolate(&mut run);
        prepared(&mut run, &world);
        output(run)
    };
    let trusted = list("")?;
    ensure!(trusted.status.success(), "{trusted:?}");
    ensure!(stdout(&trusted).contains("refs/heads/main"), "{trusted:?}");
    ensure!(
        counter(&trusted, "untrusting")? == 0,
        "{}",
        stderr(&trusted)
    );
    let untrusted = list("mkdir $FILES/none; GIT_SSL_CAINFO=$OTHER_CA GIT_SSL_CAPATH=$FILES/none")?;
    // It says goodbye as if it had been served: nothing tells it from a probe, so only its user
    // learns of it.
    let log = stderr(&untrusted);
    ensure!(log.contains("certificate verification failed"), "{log}");
    ensure!(counter(&untrusted, "untrusting")? == 0, "{log}");
    ensure!(counter(&untrusted, "injected")? == 0, "{log}");
    Ok(())
}

/// `postern check` is one with rustls; it runs as the command of another `postern`.
#[test]
fn rustls() -> Result<()> {
    let (world, nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let mut own = support::bearer("api", "https://api.test");
    own[0] = own[0].replace("  caCertSecretRef:\n    name: ca\n", "");
    own[1] = support::secret(
        "api",
        "connectors.cpaas.io/bearer-token",
        &[("token", "a-token-of-its-own")],
    );
    let inner = world.files.write("inner.yaml", own.join("---\n"))?;
    let check = |trusted: &str| -> Result<Output> {
        let script = format!(
            "{trusted} {} check -f {}",
            env!("CARGO_BIN_EXE_postern"),
            inner.display()
        );
        let mut run = world.run_with(&manifest, &["--stats"], &["bash", "-c", &script]);
        prepared(&mut run, &world);
        output(run)
    };
    let trusted = check("")?;
    ensure!(trusted.status.success(), "{trusted:?}");
    ensure!(
        counter(&trusted, "untrusting")? == 0,
        "{}",
        stderr(&trusted)
    );
    let expected = format!("Bearer {TOKEN}");
    let seen = nginx.requests_after(1)?;
    ensure!(
        seen.iter()
            .all(|request| request.authorization.as_deref() == Some(&expected)),
        "{seen:?}"
    );
    let untrusted = check("SSL_CERT_FILE=$OTHER_CA")?;
    ensure!(!untrusted.status.success(), "{untrusted:?}");
    ensure!(
        counter(&untrusted, "untrusting")? > 0,
        "{}",
        stderr(&untrusted)
    );
    ensure!(nginx.requests()?.len() == seen.len());
    Ok(())
}

/// With OpenSSL, which shows a ticket to whomever it is told to.
#[test]
fn a_session_is_resumed_for_its_own_host_only() -> Result<()> {
    let world = World::new(&["one.test", "two.test"])?;
    let site = |name| world.site(name, 443, SiteAuth::None, Content::Json("{}".into()));
    let _nginx = world.nginx(&[site("one.test")?, site("two.test")?])?;
    let mut documents = support::bearer("one", "https://one.test").to_vec();
    documents.extend(support::bearer("two", "https://two.test"));
    let manifest = world.manifest(&documents)?;
    let script = "
        connect() {
            printf 'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' $1 |
            openssl s_client -ign_eof -connect $1:443 -servername $1 -verify_return_error ${@:2} |
            grep -aoE '^(New|Reused), |^HTTP/1.1 200|^Early data was .*' | sort -u | tr '\\n' ' '
            echo
        }
        for version in -tls1_2 -tls1_3; do
            connect one.test $version -sess_out $FILES/session
            connect one.test $version -sess_in $FILES/session
            connect two.test $version -sess_in $FILES/session
        done";
    let mut run = world.run(&manifest, &["bash", "-c", script]);
    prepared(&mut run, &world);
    let text = stdout(&ok(run)?);
    let early = |line: &str| {
        line.replace("Early data was not sent", "")
            .replace("  ", " ")
    };
    let lines: Vec<_> = text
        .lines()
        .map(|line| early(line).trim().to_owned())
        .collect();
    let once = [
        "HTTP/1.1 200 New,",
        "HTTP/1.1 200 Reused,",
        "HTTP/1.1 200 New,",
    ];
    ensure!(lines == [once, once].concat(), "{lines:?}");
    Ok(())
}

#[test]
fn who_does_not_trust_is_passed_through_where_the_connector_says_so() -> Result<()> {
    let (world, nginx, _) = support::api(SiteAuth::None)?;
    let [mut connector, secret] = support::bearer("api", "https://api.test");
    connector.push_str("  interception:\n    onUntrustedCA: Passthrough\n");
    let manifest = world.manifest(&[connector, secret])?;
    let script = "
        for n in 1 2 3 4 5; do
            curl --silent --cacert $OTHER_CA --output /dev/null https://api.test/; echo $?
        done
        curl --silent --cacert $OTHER_CA --http2 https://api.test/";
    for options in [&["--stats"][..], &["--stats", "--mode", "forward"]] {
        let before = nginx.requests()?.len();
        let mut run = world.run_with(&manifest, options, &["bash", "-c", script]);
        prepared(&mut run, &world);
        let output = ok(run)?;
        let text = stdout(&output);
        ensure!(text == "60\n60\n60\n0\n0\n{}", "{options:?}: {text}");
        let log = stderr(&output);
        ensure!(
            counter(&output, "untrusting")? == 3 && counter(&output, "spliced")? == 3,
            "{log}"
        );
        ensure!(
            log.matches("now go through without a credential").count() == 1,
            "{log}"
        );
        let seen = nginx.requests_after(before + 3)?.split_off(before);
        ensure!(
            seen.iter().all(|request| request.authorization.is_none()),
            "{seen:?}"
        );
    }
    Ok(())
}

#[test]
fn a_client_that_names_no_host_gets_the_only_connector_at_the_address() -> Result<()> {
    let (world, nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    let script = "printf 'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: close\\r\\n\\r\\n' | \
                  openssl s_client -quiet -connect api.test:443 -noservername \
                  -verify_hostname api.test -verify_return_error";
    let mut run = world.run(&manifest, &["bash", "-c", script]);
    prepared(&mut run, &world);
    let text = stdout(&ok(run)?);
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    let seen = nginx.requests_after(1)?;
    ensure!(seen[0].authorization.is_some(), "{seen:?}");
    Ok(())
}
