//! A server that gives out registry tokens.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{Shutdown, shutdown};

use self::http::Question;
use self::signer::Signer;
use crate::{
    Certificate, Content, Nginx, RegistryAuth, Sandbox, Site, SiteAuth, base64, free_port, sandbox,
};

mod http;
mod signer;

/// How to start a [`TokenServer`].
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// Where it listens; a free port on loopback if unset.
    pub address: Option<SocketAddr>,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<Certificate>,
    /// The one user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// Whether clients that show no name get tokens for pulling.
    pub anonymous_pull: bool,
    /// The registry that tokens are for.
    pub service: String,
    /// How long a token is valid. A registry adds a minute of tolerance of its own.
    pub lifetime_seconds: u64,
    /// The repositories that the user may use; all of them if unset.
    pub repositories: Option<Vec<String>>,
}

impl TokenOptions {
    /// A user who may use everything, by tokens that are valid for five minutes.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            address: None,
            tls: None,
            user: user.to_owned(),
            password: password.to_owned(),
            anonymous_pull: false,
            service: "registry".to_owned(),
            lifetime_seconds: 300,
            repositories: None,
        }
    }
}

/// What somebody asked a [`TokenServer`] for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// `GET`, or `POST` for the `OAuth2` form.
    pub method: String,
    /// The registry it named.
    pub service: Option<String>,
    /// The scopes it named.
    pub scopes: Vec<String>,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    // Terminates TLS, if there is any.
    front: Option<Nginx>,
}

#[derive(Debug)]
struct Shared {
    options: TokenOptions,
    signer: Signer,
    requests: Mutex<Vec<TokenRequest>>,
}

const ISSUER: &str = "token-server";
/// Keeps a client that sends nothing from holding a thread for ever.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

impl TokenServer {
    /// Starts one, inside a sandbox or on the machine.
    pub fn start(sandbox: Option<&Sandbox>, options: &TokenOptions) -> Result<Self> {
        let address = match options.address {
            Some(address) => address,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let inner = match options.tls {
            Some(_) => (Ipv4Addr::LOCALHOST, free_port()?).into(),
            None => address,
        };
        let listener = Arc::new(listen(sandbox, inner)?);
        let shared = Arc::new(Shared {
            options: options.clone(),
            signer: Signer::new(ISSUER)?,
            requests: Mutex::default(),
        });
        let thread = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            thread::spawn(move || serve(&listener, &shared))
        };
        let mut server = Self {
            address,
            shared,
            listener,
            thread: Some(thread),
            front: None,
        };
        if let Some(certificate) = &options.tls {
            let site = Site {
                name: "_".to_owned(),
                address,
                tls: Some(certificate.clone()),
                auth: SiteAuth::None,
                content: Content::Proxy(inner),
            };
            server.front = Some(Nginx::start(sandbox, &[site])?);
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a registry needs to accept the tokens and to send clients to `host`, a name
    /// and port of this server.
    pub fn registry_auth(&self, host: &str) -> RegistryAuth {
        let scheme = if self.shared.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        RegistryAuth::Token {
            realm: format!("{scheme}://{host}/token"),
            service: self.shared.options.service.clone(),
            issuer: ISSUER.to_owned(),
            roots: self.certificate(),
        }
    }

    /// The certificate that signs.
    pub fn certificate(&self) -> PathBuf {
        self.shared.signer.certificate()
    }

    /// What it was asked so far, oldest first.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        // Wakes the thread up: its `accept` fails from now on.
        self.front = None;
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A socket belongs to the network in which it was made, so a thread goes there to make it.
fn listen(sandbox: Option<&Sandbox>, address: SocketAddr) -> Result<TcpListener> {
    let pid = sandbox.map(Sandbox::pid);
    let bind = move || {
        if let Some(pid) = pid {
            sandbox::enter_network_of(pid)?;
        }
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
    };
    thread::spawn(bind)
        .join()
        .map_err(|_| anyhow!("the listening thread panicked"))?
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A client that breaks off is its own problem.
            converse(stream, &shared).ok();
        });
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(CLIENT_LIMIT))?;
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    let question = http::read(&mut stream)?;
    let (status, body) = shared.answer(&question);
    shared
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(TokenRequest {
            method: question.method.clone(),
            service: question.first("service").map(str::to_owned),
            scopes: question
                .all("scope")
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect(),
            authorization: question.authorization.clone(),
            status,
        });
    stream.write_all(http::response(status, &body).as_bytes())?;
    Ok(())
}

impl Shared {
    fn answer(&self, question: &Question) -> (u16, String) {
        let Some(user) = self.authenticate(question) else {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong credentials"}]}"#;
            return (401, body.to_owned());
        };
        match self.token(question, &user) {
            Ok(token) => {
                let lifetime = self.options.lifetime_seconds;
                let body = format!(
                    r#"{{"token":"{token}","access_token":"{token}","expires_in":{lifetime}}}"#
                );
                (200, body)
            }
            Err(error) => (
                500,
                format!("{{\"error\":{}}}", json(&format!("{error:#}"))),
            ),
        }
    }

    /// The user, empty for an anonymous one.
    fn authenticate(&self, question: &Question) -> Option<String> {
        let TokenOptions {
            user,
            password,
            anonymous_pull,
            ..
        } = &self.options;
        let basic = format!("Basic {}", base64::encode(format!("{user}:{password}")));
        let known = if question.method == "POST" {
            question.first("username") == Some(user) && question.first("password") == Some(password)
        } else {
            question.authorization.as_deref() == Some(&basic)
        };
        let nothing_shown = question.authorization.is_none() && question.method != "POST";
        if known {
            Some(user.clone())
        } else {
            (nothing_shown && *anonymous_pull).then(String::new)
        }
    }

    fn token(&self, question: &Question, user: &str) -> Result<String> {
        let scopes = question.all("scope").flat_map(str::split_whitespace);
        let access: Vec<_> = scopes
            .filter_map(|scope| self.granted(scope, user))
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is wrong")?;
        let issued = now.as_secs();
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":{},"aud":{},"exp":{},"nbf":{issued},"iat":{issued},"jti":"{}","access":[{}]}}"#,
            json(user),
            json(&self.options.service),
            issued + self.options.lifetime_seconds,
            now.as_nanos(),
            access.join(","),
        );
        self.signer.sign(&claims)
    }

    /// The part of a scope (`type:name:action,action`) that the user may have.
    fn granted(&self, scope: &str, user: &str) -> Option<String> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let repositories = self.options.repositories.as_ref();
        if repositories.is_some_and(|allowed| !allowed.iter().any(|one| one == name)) {
            return None;
        }
        let actions: Vec<_> = actions
            .split(',')
            .filter(|action| !user.is_empty() || *action == "pull")
            .map(json)
            .collect();
        let (kind, name) = (json(kind), json(name));
        Some(format!(
            r#"{{"type":{kind},"name":{name},"actions":[{}]}}"#,
            actions.join(",")
        ))
    }
}

/// A JSON string.
fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.push('?'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
