//! Functions of the sprig library that probe templates may use, beside Go's own.
//!
//! Argument order is sprig's: what is worked on comes last, so that it can be piped in.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gtmpl_ng::{Func, FuncError, Value};

/// Name and function.
pub(super) const ALL: &[(&str, Func)] = &[
    ("append", append),
    ("b64enc", b64enc),
    ("contains", contains),
    ("default", default),
    ("first", first),
    ("hasPrefix", has_prefix),
    ("hasSuffix", has_suffix),
    ("join", join),
    ("last", last),
    ("list", list),
    ("lower", lower),
    ("replace", replace),
    ("splitList", split_list),
    ("trim", trim),
    ("trimPrefix", trim_prefix),
    ("trimSuffix", trim_suffix),
    ("urlParse", url_parse),
];

type Answer = Result<Value, FuncError>;

fn b64enc(args: &[Value]) -> Answer {
    let [text] = strings("b64enc", args)?;
    Ok(STANDARD.encode(text).into())
}

fn trim(args: &[Value]) -> Answer {
    let [text] = strings("trim", args)?;
    Ok(text.trim().into())
}

fn lower(args: &[Value]) -> Answer {
    let [text] = strings("lower", args)?;
    Ok(text.to_lowercase().into())
}

fn trim_prefix(args: &[Value]) -> Answer {
    let [prefix, text] = strings("trimPrefix", args)?;
    Ok(text.strip_prefix(prefix).unwrap_or(text).into())
}

fn trim_suffix(args: &[Value]) -> Answer {
    let [suffix, text] = strings("trimSuffix", args)?;
    Ok(text.strip_suffix(suffix).unwrap_or(text).into())
}

fn has_prefix(args: &[Value]) -> Answer {
    let [prefix, text] = strings("hasPrefix", args)?;
    Ok(text.starts_with(prefix).into())
}

fn has_suffix(args: &[Value]) -> Answer {
    let [suffix, text] = strings("hasSuffix", args)?;
    Ok(text.ends_with(suffix).into())
}

fn contains(args: &[Value]) -> Answer {
    let [part, text] = strings("contains", args)?;
    Ok(text.contains(part).into())
}

fn replace(args: &[Value]) -> Answer {
    let [old, new, text] = strings("replace", args)?;
    Ok(text.replace(old, new).into())
}

fn split_list(args: &[Value]) -> Answer {
    let [separator, text] = strings("splitList", args)?;
    Ok(Value::Array(
        text.split(separator).map(Value::from).collect(),
    ))
}

#[expect(clippy::unnecessary_wraps, reason = "the engine wants this signature")]
fn list(args: &[Value]) -> Answer {
    Ok(Value::Array(args.to_vec()))
}

fn append(args: &[Value]) -> Answer {
    let [list, item] = exactly("append", args)?;
    let mut items = array("append", list)?.to_vec();
    items.push(item.clone());
    Ok(Value::Array(items))
}

fn first(args: &[Value]) -> Answer {
    let [list] = exactly("first", args)?;
    Ok(array("first", list)?.first().cloned().unwrap_or(Value::Nil))
}

fn last(args: &[Value]) -> Answer {
    let [list] = exactly("last", args)?;
    Ok(array("last", list)?.last().cloned().unwrap_or(Value::Nil))
}

fn join(args: &[Value]) -> Answer {
    let [separator, list] = exactly("join", args)?;
    let separator = string("join", separator)?;
    let items: Vec<String> = array("join", list)?.iter().map(Value::to_string).collect();
    Ok(items.join(separator).into())
}

fn default(args: &[Value]) -> Answer {
    let [fallback, value] = exactly("default", args)?;
    let empty = match value {
        Value::NoValue | Value::Nil | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Map(members) => members.is_empty(),
        _ => false,
    };
    Ok(if empty { fallback } else { value }.clone())
}

/// The parts of a URL; unlike Go's, the path stays percent-encoded, ready for a request.
fn url_parse(args: &[Value]) -> Answer {
    let [text] = strings("urlParse", args)?;
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let (authority, path) = match rest.find('/') {
        _ if scheme.is_empty() => ("", rest),
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (userinfo, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let hostname = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let parts = [
        ("scheme", scheme),
        ("userinfo", userinfo),
        ("host", host),
        ("hostname", hostname),
        ("path", path),
        ("query", query),
        ("fragment", fragment),
        ("opaque", ""),
    ];
    let parts = parts.map(|(name, part)| (name.to_owned(), Value::from(part)));
    Ok(Value::Map(HashMap::from(parts)))
}

fn exactly<'a, const N: usize>(name: &str, args: &'a [Value]) -> Result<&'a [Value; N], FuncError> {
    args.try_into()
        .map_err(|_| FuncError::ExactlyXArgs(name.to_owned(), N))
}

fn strings<'a, const N: usize>(name: &str, args: &'a [Value]) -> Result<[&'a str; N], FuncError> {
    let values: &[Value; N] = exactly(name, args)?;
    let mut texts = [""; N];
    for (text, value) in texts.iter_mut().zip(values) {
        *text = string(name, value)?;
    }
    Ok(texts)
}

fn string<'a>(name: &str, value: &'a Value) -> Result<&'a str, FuncError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(FuncError::Generic(format!("{name} takes strings"))),
    }
}

fn array<'a>(name: &str, value: &'a Value) -> Result<&'a [Value], FuncError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(FuncError::Generic(format!("{name} takes a list"))),
    }
}
