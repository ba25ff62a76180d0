//! What can be said of a generator without running it: what it calls, and what its result
//! depends on.
//!
//! A generator runs in the process that serves every workload of a node, and its engine
//! recurses on the stack. So what could recurse for long is refused here: functions that
//! call themselves, long chains of rules, deep expressions.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Module, Query, Rule, RuleAssign, RuleHead};

use super::GeneratorError;
use super::builtins;
use crate::limits;

/// What the result depends on besides the Secret and the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The request, or the time.
    pub(super) request: bool,
    /// The body of the request.
    pub(super) body: bool,
}

/// The package that a generator has to be.
const PACKAGE: &str = "data.proxy.";
/// The rule that it has to define.
const RULE: &str = "auth";

/// Applies every rule to a module.
pub(super) fn analyse(module: &Module) -> Result<Needs, GeneratorError> {
    if module.policy.len() > limits::GENERATOR_RULES {
        return Err(GeneratorError::Module(format!(
            "has more than {} rules: make it simpler",
            limits::GENERATOR_RULES
        )));
    }
    let mut analysis = Analysis::default();
    for rule in &module.policy {
        if let Rule::Spec {
            head: RuleHead::Func { refr, .. },
            ..
        } = rule.as_ref()
        {
            analysis.functions.extend(Path::of(refr).name());
        }
    }
    let mut defines = false;
    for import in &module.imports {
        analysis.import(&import.refr)?;
    }
    for rule in &module.policy {
        let name = analysis.rule(rule)?;
        defines |= name.is_some_and(|name| name == RULE);
    }
    if !defines {
        return Err(GeneratorError::Module(
            "has no rule `auth`: define it as an object with `position` and `auth`".to_owned(),
        ));
    }
    analysis.refuse_recursion()?;
    Ok(analysis.needs)
}

#[derive(Default)]
struct Analysis {
    needs: Needs,
    /// Names of the module's own functions.
    functions: BTreeSet<String>,
    /// Which functions each of them calls, and on which line.
    calls: BTreeMap<String, BTreeMap<String, u32>>,
}

/// A part of a module that is still to be looked at, and how deep it is.
type Pending<'a> = Vec<(Part<'a>, usize)>;

enum Part<'a> {
    Expr(&'a Expr),
    Query(&'a Query),
}

impl Analysis {
    fn import(&mut self, path: &Expr) -> Result<(), GeneratorError> {
        let path = Path::of(path);
        match path.root {
            Some("input") => self.reads_input(&path),
            Some("rego" | "future") => {}
            _ => {
                return Err(refused(
                    path.line,
                    "a generator is one module: import nothing but rego.v1, future.keywords and \
                     parts of input",
                ));
            }
        }
        Ok(())
    }

    /// Looks at a rule; returns its name.
    fn rule<'a>(&mut self, rule: &'a Rule) -> Result<Option<&'a str>, GeneratorError> {
        let mut pending = Pending::new();
        let (name, function) = match rule {
            Rule::Default {
                refr, args, value, ..
            } => {
                pending.extend(args.iter().map(|it| (Part::Expr(it), 0)));
                pending.push((Part::Expr(value), 0));
                (Path::of(refr), None)
            }
            Rule::Spec { head, bodies, .. } => {
                let (refr, assign, function) = match head {
                    RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref(), None),
                    RuleHead::Set { refr, key, .. } => {
                        pending.extend(key.iter().map(|it| (Part::Expr(it), 0)));
                        (refr, None, None)
                    }
                    RuleHead::Func {
                        refr, args, assign, ..
                    } => {
                        pending.extend(args.iter().map(|it| (Part::Expr(it), 0)));
                        (refr, assign.as_ref(), Path::of(refr).name())
                    }
                };
                let path = Path::of(refr);
                pending.extend(path.indexes.iter().map(|it| (Part::Expr(it), 0)));
                let value = |assign: &'a RuleAssign| (Part::Expr(&assign.value), 0);
                pending.extend(assign.map(value));
                for body in bodies {
                    pending.extend(body.assign.as_ref().map(value));
                    pending.push((Part::Query(&body.query), 0));
                }
                (path, function)
            }
        };
        while let Some((part, depth)) = pending.pop() {
            match part {
                Part::Query(query) => statements(query, depth, &mut pending)?,
                Part::Expr(expr) => self.expr(expr, depth, function.as_deref(), &mut pending)?,
            }
        }
        Ok(name.root)
    }

    fn expr<'a>(
        &mut self,
        expr: &'a Expr,
        depth: usize,
        function: Option<&str>,
        pending: &mut Pending<'a>,
    ) -> Result<(), GeneratorError> {
        let line = expr.span().line;
        if depth > limits::GENERATOR_DEPTH {
            return Err(refused(
                line,
                "an expression is nested too deeply: give its parts names",
            ));
        }
        let mut push = |expr: &'a Expr| pending.push((Part::Expr(expr), depth + 1));
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let path = Path::of(expr);
                if path.parts.len() > limits::GENERATOR_DEPTH {
                    return Err(refused(
                        line,
                        "a reference is too long: give its parts names",
                    ));
                }
                if path.root == Some("input") {
                    self.reads_input(&path);
                }
                path.indexes.into_iter().for_each(&mut push);
                path.base.into_iter().for_each(push);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                for it in items {
                    push(it);
                }
            }
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    push(key);
                    push(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                push(term);
                pending.push((Part::Query(query), depth + 1));
            }
            Expr::ObjectCompr {
                key, value, query, ..
            } => {
                push(key);
                push(value);
                pending.push((Part::Query(query), depth + 1));
            }
            Expr::Call { fcn, params, .. } => {
                for it in params {
                    push(it);
                }
                self.call(fcn, params.first().map(AsRef::as_ref), function)?;
            }
            Expr::UnaryExpr { expr, .. } => push(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                push(lhs);
                push(rhs);
            }
            Expr::Membership {
                key,
                value,
                collection,
                ..
            } => {
                if let Some(it) = key {
                    push(it);
                }
                push(value);
                push(collection);
            }
        }
        Ok(())
    }

    fn call(
        &mut self,
        called: &Expr,
        first: Option<&Expr>,
        function: Option<&str>,
    ) -> Result<(), GeneratorError> {
        let line = called.span().line;
        let Some(name) = Path::of(called).name() else {
            return Err(refused(line, "a function is called by its name alone"));
        };
        let own = name.strip_prefix(PACKAGE).unwrap_or(&name);
        if self.functions.contains(own) {
            if let Some(function) = function {
                let calls = self.calls.entry(function.to_owned()).or_default();
                calls.insert(own.to_owned(), line);
            }
            return Ok(());
        }
        if !builtins::is_available(&name) {
            return Err(refused(
                line,
                &format!(
                    "`{name}` is not available to a generator: use one of the functions that the \
                     documentation of classes lists"
                ),
            ));
        }
        if name == "sprintf" {
            let format = match first {
                Some(Expr::String { value, .. } | Expr::RawString { value, .. }) => {
                    value.as_string().ok()
                }
                _ => None,
            };
            if !format.is_some_and(|format| builtins::is_modest_format(format)) {
                return Err(refused(
                    line,
                    "the format of sprintf has to be a text that is written there, with no width \
                     beyond 99",
                ));
            }
        }
        self.needs.request |= name == builtins::NOW;
        Ok(())
    }

    /// Notes what of the input is read; when in doubt, all of it.
    fn reads_input(&mut self, path: &Path<'_>) {
        let needs = match path.parts.as_slice() {
            [Some("data" | "params"), ..] => Needs::default(),
            [Some("request"), Some(part), ..] => Needs {
                request: true,
                body: *part == "body",
            },
            _ => Needs {
                request: true,
                body: true,
            },
        };
        self.needs.request |= needs.request;
        self.needs.body |= needs.body;
    }

    /// The engine does not notice functions that call themselves until its stack is used up.
    fn refuse_recursion(&self) -> Result<(), GeneratorError> {
        for start in self.calls.keys() {
            let mut seen = BTreeSet::new();
            let mut pending = vec![start];
            while let Some(calls) = pending.pop().and_then(|it| self.calls.get(it)) {
                for (called, line) in calls {
                    if called == start {
                        let what = format!("the function `{start}` calls itself: unroll it");
                        return Err(refused(*line, &what));
                    }
                    if seen.insert(called) && self.calls.contains_key(called) {
                        pending.push(called);
                    }
                }
            }
        }
        Ok(())
    }
}

fn statements<'a>(
    query: &'a Query,
    depth: usize,
    pending: &mut Pending<'a>,
) -> Result<(), GeneratorError> {
    for statement in &query.stmts {
        if !statement.with_mods.is_empty() {
            return Err(refused(
                statement.span.line,
                "`with` is not available to a generator: use functions with arguments",
            ));
        }
        let mut push = |expr: &'a Expr| pending.push((Part::Expr(expr), depth + 1));
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn {
                key,
                value,
                collection,
                ..
            } => {
                if let Some(it) = key {
                    push(it);
                }
                push(value);
                push(collection);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => push(expr),
            Literal::Every { domain, query, .. } => {
                push(domain);
                pending.push((Part::Query(query), depth + 1));
            }
        }
    }
    Ok(())
}

/// A reference such as `input.request.headers["Host"][0]`.
struct Path<'a> {
    /// The variable that it starts with.
    root: Option<&'a str>,
    /// What it starts with, if that is no variable.
    base: Option<&'a Expr>,
    /// What follows; `None` for what is not written there as text.
    parts: Vec<Option<&'a str>>,
    /// Expressions in brackets.
    indexes: Vec<&'a Expr>,
    line: u32,
}

impl<'a> Path<'a> {
    fn of(mut expr: &'a Expr) -> Self {
        let mut path = Self {
            root: None,
            base: None,
            parts: Vec::new(),
            indexes: Vec::new(),
            line: expr.span().line,
        };
        loop {
            match expr {
                Expr::Var { span, .. } => {
                    path.root = Some(span.text());
                    break;
                }
                Expr::RefDot { refr, field, .. } => {
                    path.parts.push(Some(field.0.text()));
                    expr = refr;
                }
                Expr::RefBrack { refr, index, .. } => {
                    path.parts.push(match index.as_ref() {
                        Expr::String { value, .. } => value.as_string().ok().map(|it| &**it),
                        _ => None,
                    });
                    path.indexes.push(index);
                    expr = refr;
                }
                _ => {
                    path.base = Some(expr);
                    break;
                }
            }
        }
        path.parts.reverse();
        path
    }

    /// The path as the name of a function; `None` for what cannot be one.
    fn name(&self) -> Option<String> {
        let mut name = self.root?.to_owned();
        for part in &self.parts {
            name.push('.');
            name.push_str((*part)?);
        }
        Some(name)
    }
}

fn refused(line: u32, what: &str) -> GeneratorError {
    let what = what.to_owned();
    GeneratorError::Refused { line, what }
}
