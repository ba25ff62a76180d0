//! nginx in front of git repositories, APIs, files and other servers.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Certificate, Sandbox, Server, TempDir, git, htpasswd, sandbox};

/// One virtual host.
#[derive(Clone, Debug)]
pub struct Site {
    /// The host name that it answers to; the first site of an address also answers to
    /// names that no site has.
    pub name: String,
    /// Where it listens. Sites may share an address.
    pub address: SocketAddr,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<Certificate>,
    /// What a client has to show.
    pub auth: SiteAuth,
    /// What is there.
    pub content: Content,
}

/// What a client of a [`Site`] has to show; else it gets a 401 with a challenge.
#[derive(Clone, Debug)]
pub enum SiteAuth {
    /// Nothing.
    None,
    /// Name and password of the one user.
    Basic {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

/// What a [`Site`] serves.
#[derive(Clone, Debug)]
pub enum Content {
    /// Git repositories below a folder, for reading and, with [`SiteAuth::Basic`], writing.
    Git(PathBuf),
    /// The same JSON text for every path.
    Json(String),
    /// The files below a folder.
    Files(PathBuf),
    /// Whatever a server at this address answers over plain HTTP. The client's `Host` and
    /// `Authorization` are passed on.
    Proxy(SocketAddr),
    /// A redirect of every path to this address, with the path appended.
    Redirect(String),
}

/// A request as nginx saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `Host`, or `:authority` in HTTP/2.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query as sent.
    pub uri: String,
    /// What it was answered.
    pub status: u16,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The name in the TLS handshake.
    pub server_name: Option<String>,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    server: Server,
    // One process each, so that stopping the process stops everything.
    _git: Vec<Server>,
    files: TempDir,
}

/// How many git requests can be served at a time.
const GIT_PROCESSES: usize = 4;

impl Nginx {
    /// Starts one, inside a sandbox or on the machine.
    pub fn start(sandbox: Option<&Sandbox>, sites: &[Site]) -> Result<Self> {
        let files = TempDir::new("nginx")?;
        let git = if sites
            .iter()
            .any(|site| matches!(site.content, Content::Git(_)))
        {
            (0..GIT_PROCESSES)
                .map(|n| start_git(sandbox, &files, n))
                .collect::<Result<_>>()?
        } else {
            Vec::new()
        };

        let config = files.write("nginx.conf", config(&files, sites)?)?;
        let mut command = sandbox::command(sandbox, "nginx");
        command
            .arg("-e")
            .arg(files.join("errors"))
            .arg("-p")
            .arg(files.path());
        command.arg("-c").arg(config);
        let ports: BTreeSet<_> = sites.iter().map(|site| site.address.port()).collect();
        let server = Server::start(&command, &files.join("log"), |pid| {
            ports.iter().all(|port| crate::net::listens(pid, *port))
        })
        .with_context(|| {
            let errors = fs::read_to_string(files.join("errors")).unwrap_or_default();
            format!("nginx cannot be started: {}", errors.trim())
        })?;
        Ok(Self {
            server,
            _git: git,
            files,
        })
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The requests that were answered so far, oldest first.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let log = fs::read_to_string(self.files.join("access")).context("no access log")?;
        // A line without its end is still being written.
        let complete = log.rfind('\n').map_or("", |end| &log[..end]);
        complete.lines().map(parse).collect()
    }

    /// The requests, once there are at least `count`: nginx writes its log after it answered.
    pub fn requests_after(&self, count: usize) -> Result<Vec<Request>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let requests = self.requests()?;
            if requests.len() >= count {
                return Ok(requests);
            }
            if Instant::now() > deadline {
                bail!("nginx answered {} requests, not {count}", requests.len());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start_git(sandbox: Option<&Sandbox>, files: &TempDir, number: usize) -> Result<Server> {
    let socket = git_socket(files, number);
    let mut command = sandbox::command(sandbox, "fcgiwrap");
    command
        .arg("-f")
        .arg("-s")
        .arg(format!("unix:{}", socket.display()));
    git::isolate(&mut command);
    // It listens as soon as it has bound the socket, or nginx retries another process.
    Server::start(&command, &files.join(format!("git-{number}.log")), |_| {
        socket.exists()
    })
    .context("fcgiwrap cannot be started")
}

fn git_socket(files: &TempDir, number: usize) -> PathBuf {
    files.join(format!("git-{number}.sock"))
}

/// Fields are separated by a character that nginx escapes in values.
const LOG_FORMAT: &str = "$http_host|$request_method|$request_uri|$status|$http_authorization\
                          |$server_protocol|$ssl_server_name";

fn parse(line: &str) -> Result<Request> {
    let fields: Vec<_> = line.split('\t').collect();
    let [
        host,
        method,
        uri,
        status,
        authorization,
        protocol,
        server_name,
    ] = fields[..]
    else {
        bail!("not a line of our access log: {line}");
    };
    let optional = |value: &str| (value != "-").then(|| value.to_owned());
    Ok(Request {
        host: host.to_owned(),
        method: method.to_owned(),
        uri: uri.to_owned(),
        status: status
            .parse()
            .with_context(|| format!("not a status: {status}"))?,
        authorization: optional(authorization),
        protocol: protocol.to_owned(),
        server_name: optional(server_name),
    })
}

fn config(files: &TempDir, sites: &[Site]) -> Result<String> {
    let mut text = String::new();
    // One process in the foreground: stopping it leaves nobody behind.
    writeln!(
        text,
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;"
    )?;
    writeln!(
        text,
        "error_log errors info;\nevents {{ worker_connections 2048; }}\nhttp {{"
    )?;
    writeln!(
        text,
        "log_format seen \"{}\";",
        LOG_FORMAT.replace('|', "\\t")
    )?;
    writeln!(
        text,
        "access_log access seen;\nclient_max_body_size 0;\nsendfile on;"
    )?;
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Not every build of nginx has all of them; Debian's light one does.
        writeln!(text, "{kind}_temp_path {};", files.join(kind).display())?;
    }
    if sites
        .iter()
        .any(|site| matches!(site.content, Content::Git(_)))
    {
        writeln!(text, "upstream git {{")?;
        for number in 0..GIT_PROCESSES {
            writeln!(text, "server unix:{};", git_socket(files, number).display())?;
        }
        writeln!(text, "}}")?;
    }
    for (number, site) in sites.iter().enumerate() {
        write_site(&mut text, files, number, site)
            .with_context(|| format!("the site {}", site.name))?;
    }
    text.push_str("}\n");
    Ok(text)
}

fn write_site(text: &mut String, files: &TempDir, number: usize, site: &Site) -> Result<()> {
    let tls = if site.tls.is_some() { " ssl http2" } else { "" };
    writeln!(
        text,
        "server {{\nlisten {}{tls};\nserver_name {};",
        site.address, site.name
    )?;
    if let Some(certificate) = &site.tls {
        writeln!(text, "ssl_certificate {};", certificate.cert.display())?;
        writeln!(text, "ssl_certificate_key {};", certificate.key.display())?;
    }
    // What has no type otherwise: the texts that this file writes.
    writeln!(text, "default_type application/json;\nlocation / {{")?;
    match &site.auth {
        SiteAuth::None => {}
        SiteAuth::Basic { user, password } => {
            let name = format!("users-{number}");
            let users = files.write(name, htpasswd(user, password)?)?;
            writeln!(
                text,
                "auth_basic \"site\";\nauth_basic_user_file {};",
                users.display()
            )?;
        }
        SiteAuth::Bearer(token) => {
            writeln!(
                text,
                "if ($http_authorization != {}) {{",
                quoted(&format!("Bearer {token}"))?
            )?;
            writeln!(
                text,
                "add_header WWW-Authenticate 'Bearer realm=\"site\"' always;"
            )?;
            writeln!(text, "return 401 '{{\"error\":\"no valid token\"}}';\n}}")?;
        }
    }
    write_content(text, &site.content)?;
    text.push_str("}\n}\n");
    Ok(())
}

fn write_content(text: &mut String, content: &Content) -> Result<()> {
    match content {
        Content::Git(root) => {
            let parameters = [
                (
                    "SCRIPT_FILENAME",
                    git::http_backend()?.display().to_string(),
                ),
                ("GIT_PROJECT_ROOT", root.display().to_string()),
                ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
                ("PATH_INFO", "$uri".to_owned()),
                ("QUERY_STRING", "$args".to_owned()),
                ("REQUEST_METHOD", "$request_method".to_owned()),
                ("CONTENT_TYPE", "$content_type".to_owned()),
                ("CONTENT_LENGTH", "$content_length".to_owned()),
                ("REMOTE_ADDR", "$remote_addr".to_owned()),
            ];
            for (name, value) in parameters {
                writeln!(text, "fastcgi_param {name} {value};")?;
            }
            // Git allows a push when it knows a user.
            writeln!(text, "fastcgi_param REMOTE_USER $remote_user if_not_empty;")?;
            writeln!(text, "fastcgi_pass git;")?;
        }
        Content::Json(body) => {
            writeln!(text, "return 200 {};", quoted(body)?)?;
        }
        Content::Files(root) => writeln!(text, "root {};", root.display())?,
        Content::Proxy(address) => {
            writeln!(
                text,
                "proxy_pass http://{address};\nproxy_http_version 1.1;"
            )?;
            writeln!(text, "proxy_set_header Host $http_host;")?;
            writeln!(text, "proxy_set_header X-Forwarded-Proto $scheme;")?;
            writeln!(text, "proxy_request_buffering off;\nproxy_buffering off;")?;
        }
        Content::Redirect(to) => writeln!(text, "return 307 \"{to}$request_uri\";")?,
    }
    Ok(())
}

/// A literal string of nginx's configuration; it has no way to write a dollar sign.
fn quoted(value: &str) -> Result<String> {
    if value.contains(['$', '\n', '\r']) {
        bail!("nginx cannot be given a dollar sign or a line break: {value:?}");
    }
    Ok(format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_log() {
        let line = "a.test:8443\tGET\t/x?y=1\t200\tBearer t\tHTTP/2.0\ta.test";
        let request = parse(line).unwrap();
        assert_eq!(request.authorization.as_deref(), Some("Bearer t"));
        assert_eq!((request.status, request.uri.as_str()), (200, "/x?y=1"));
        let bare = parse("a.test\tPUT\t/\t401\t-\tHTTP/1.1\t-").unwrap();
        assert_eq!((bare.authorization, bare.server_name), (None, None));
        assert!(parse("something else").is_err());
    }

    #[test]
    fn refuses_what_the_configuration_cannot_say() {
        assert_eq!(quoted(r#"a "b" \c"#).unwrap(), r#""a \"b\" \\c""#);
        assert!(quoted("$host").is_err());
    }
}
