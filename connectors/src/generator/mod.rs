//! `generator.rego`: a class's own way to make the credential of a request.
//!
//! The module is compiled once. If its result depends on nothing but the Secret and the
//! parameters, it is also evaluated once, here; otherwise for each request.

mod analysis;
mod builtins;
mod clock;
mod error;
mod nesting;
mod output;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;

use http::{HeaderMap, Method};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use secrecy::{ExposeSecret as _, SecretString};
use url::form_urlencoded;
use zeroize::Zeroize as _;

use super::limits;
use analysis::Needs;
pub use error::GeneratorError;
pub use output::{BodyKind, Field, Injection};

/// The rule that is evaluated.
const AUTH: &str = "data.proxy.auth";
/// How many steps of an evaluation go by before its time is looked at.
const STEPS: NonZeroU32 = NonZeroU32::new(16).expect("not zero");

/// Stack for compiling a module, bytes; only what is used of it takes memory.
const COMPILER_STACK: usize = 64 * 1024 * 1024;

/// A compiled module.
#[derive(Clone)]
pub(super) struct Program {
    engine: Engine,
    needs: Needs,
}

impl Program {
    /// Compiles a module, written for Rego v1 or v0.
    pub(super) fn compile(rego: &str) -> Result<Self, GeneratorError> {
        if rego.len() > limits::GENERATOR {
            return Err(GeneratorError::Module(format!(
                "is larger than {} KiB: make it simpler",
                limits::GENERATOR / 1024
            )));
        }
        nesting::check(rego)?;
        clock::install();
        // What the engine parses it also drops by recursion: a chain of operators as long as
        // the module needs more stack than the threads of a server have.
        thread::scope(|scope| {
            thread::Builder::new()
                .name("generator".to_owned())
                .stack_size(COMPILER_STACK)
                .spawn_scoped(scope, || Self::compile_here(rego))
                .ok()
                .and_then(|compiler| compiler.join().ok())
        })
        .unwrap_or(Err(GeneratorError::NoThread))
    }

    fn compile_here(rego: &str) -> Result<Self, GeneratorError> {
        let mut engine = match parse(rego, false) {
            Ok(engine) => engine,
            // The version that gets further is the one that is meant.
            Err(v1) => {
                parse(rego, true).map_err(|v0| if v0.line() > v1.line() { v0 } else { v1 })?
            }
        };
        let needs = match engine.get_modules().as_slice() {
            [module] => analysis::analyse(module)?,
            _ => Needs::default(),
        };
        let prepared = builtins::add_to(&mut engine)
            .and_then(|()| engine.compile_with_entrypoint(&AUTH.into()));
        prepared.map_err(|error| GeneratorError::syntax(&error))?;
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: limits::GENERATOR_TIME,
            check_interval: STEPS,
        });
        Ok(Self { engine, needs })
    }

    fn evaluate(
        &self,
        data: &BTreeMap<String, SecretString>,
        params: &BTreeMap<String, String>,
        request: Option<&Request<'_>>,
    ) -> Result<Injection, GeneratorError> {
        let mut secrets: Vec<(Value, Value)> = data
            .iter()
            .map(|(key, value)| (Value::from(key.as_str()), value.expose_secret().into()))
            .collect();
        let mut input = BTreeMap::from([
            ("data".into(), object(secrets.iter().cloned())),
            ("params".into(), strings(params)),
        ]);
        if let Some(request) = request {
            input.insert("request".into(), request.value());
        }
        let mut engine = self.engine.clone();
        engine.set_input(Value::from(input));
        let value = engine.eval_rule(AUTH.to_owned());
        drop(engine);
        let injection = match value {
            Ok(mut value) => {
                let injection = Injection::read(&value);
                wipe_result(&mut value);
                injection
            }
            Err(error) => Err(GeneratorError::evaluation(&error)),
        };
        for (_, value) in &mut secrets {
            wipe(value);
        }
        injection
    }
}

/// Whether a module can be a generator.
pub(super) fn check(rego: &str) -> Result<(), GeneratorError> {
    Program::compile(rego).map(drop)
}

fn parse(rego: &str, v0: bool) -> Result<Engine, GeneratorError> {
    let mut engine = Engine::new();
    engine.set_rego_v0(v0);
    let package = engine
        .add_policy(error::MODULE.to_owned(), rego.to_owned())
        .map_err(|error| GeneratorError::syntax(&error))?;
    if package == "data.proxy" {
        Ok(engine)
    } else {
        Err(GeneratorError::Module(
            "is of another package: begin it with `package proxy`".to_owned(),
        ))
    }
}

/// What a generator is told of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// Host, with the port unless it is the scheme's own.
    pub host: &'a str,
    /// Path as it was sent.
    pub path: &'a str,
    /// Query as it was sent; empty without one.
    pub query: &'a str,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The body, where it is a JSON object and [`Generated::needs_body`].
    pub body: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

impl Request<'_> {
    fn value(&self) -> Value {
        let mut headers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (name, value) in self.headers {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let values = headers.entry(canonical(name.as_str())).or_default();
            values.push(text.into());
        }
        let mut query: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(self.query.as_bytes()) {
            let values = query.entry(key.into_owned()).or_default();
            values.push(value.into_owned().into());
        }
        let mut request: BTreeMap<Value, Value> = BTreeMap::from([
            ("method".into(), self.method.as_str().into()),
            ("host".into(), self.host.into()),
            ("path".into(), self.path.into()),
            ("headers".into(), lists(headers)),
            ("query".into(), lists(query)),
        ]);
        if let Some(body) = self.body {
            let body = serde_json::Value::Object(body.clone());
            request.insert("body".into(), body.into());
        }
        request.into()
    }
}

/// The form in which Go writes the names of header fields.
fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let c = if upper { c.to_ascii_uppercase() } else { c };
            upper = c == '-';
            c
        })
        .collect()
}

fn object(entries: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::from(entries.into_iter().collect::<BTreeMap<_, _>>())
}

fn strings(entries: &BTreeMap<String, String>) -> Value {
    let entries = entries.iter();
    object(entries.map(|(key, value)| (key.as_str().into(), value.as_str().into())))
}

fn lists(entries: BTreeMap<String, Vec<Value>>) -> Value {
    let entries = entries.into_iter();
    object(entries.map(|(key, values)| (key.into(), values.into())))
}

/// Overwrites a text that nobody else refers to.
fn wipe(value: &mut Value) {
    if let Ok(text) = value.as_string_mut()
        && let Some(text) = Arc::get_mut(text)
    {
        text.zeroize();
    }
}

/// Overwrites the values of `auth.auth`.
fn wipe_result(value: &mut Value) {
    let auth = value.as_object_mut().ok();
    let auth = auth.and_then(|it| it.get_mut(&"auth".into()));
    if let Some(entries) = auth.and_then(|it| it.as_object_mut().ok()) {
        entries.iter_mut().for_each(|(_, value)| wipe(value));
    }
}

/// A credential that a generator makes, for one Connector.
#[derive(Clone)]
pub struct Generated {
    rego: Arc<str>,
    data: BTreeMap<String, SecretString>,
    params: BTreeMap<String, String>,
    program: Program,
    /// The result, if it is the same for all requests.
    fixed: Option<Injection>,
}

impl Generated {
    /// Compiles a module and gives it what it is to be told of a Secret and of parameters. If
    /// it needs nothing else, it is evaluated, too.
    pub fn new(
        rego: &str,
        data: BTreeMap<String, SecretString>,
        params: BTreeMap<String, String>,
    ) -> Result<Self, GeneratorError> {
        let program = Program::compile(rego)?;
        let secrets = data
            .iter()
            .map(|(key, it)| key.len() + it.expose_secret().len());
        let plain = params.iter().map(|(key, it)| key.len() + it.len());
        if secrets.chain(plain).sum::<usize>() > limits::GENERATOR_INPUT {
            return Err(GeneratorError::Input);
        }
        let fixed = if program.needs.request {
            None
        } else {
            Some(program.evaluate(&data, &params, None)?)
        };
        Ok(Self {
            rego: rego.into(),
            data,
            params,
            program,
            fixed,
        })
    }

    /// The module.
    pub fn rego(&self) -> &str {
        &self.rego
    }

    /// `input.data`.
    pub fn data(&self) -> &BTreeMap<String, SecretString> {
        &self.data
    }

    /// `input.params`.
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.params
    }

    /// Whether the module reads the bodies of requests.
    pub fn needs_body(&self) -> bool {
        self.program.needs.body
    }

    /// What is added to a request.
    pub fn injection(&self, request: &Request<'_>) -> Result<Cow<'_, Injection>, GeneratorError> {
        match &self.fixed {
            Some(fixed) => Ok(Cow::Borrowed(fixed)),
            None => self
                .program
                .evaluate(&self.data, &self.params, Some(request))
                .map(Cow::Owned),
        }
    }
}

/// Equal modules that are given the same.
impl PartialEq for Generated {
    fn eq(&self, other: &Self) -> bool {
        let same = |((key, one), (other_key, other)): ((&String, &SecretString), _)| {
            let _: (&String, &SecretString) = (other_key, other);
            key == other_key && one.expose_secret() == other.expose_secret()
        };
        self.rego == other.rego
            && self.params == other.params
            && self.data.len() == other.data.len()
            && self.data.iter().zip(&other.data).all(same)
    }
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated").finish_non_exhaustive()
    }
}
