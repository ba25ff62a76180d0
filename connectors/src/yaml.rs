//! From text to untyped values to typed objects, with errors that quote nothing.
//!
//! Both the YAML parser and serde like to show the offending text. Any document may hold a
//! Secret, a broken one may hold it in any place, so neither gets to speak: positions and
//! field paths are taken over, words are our own.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Error as YamlError;
use zeroize::Zeroize;

use super::error::{Problem, YamlFault};

/// One document of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its number as YAML counts, from 1; empty documents count.
    pub(super) number: usize,
    /// Line of the file on which `text` starts, from 1.
    pub(super) line: u64,
    /// Its text; empty documents are left out of the list.
    pub(super) text: &'a str,
}

/// Splits a stream into its documents, without the empty ones.
///
/// A line that starts with `---` is a document marker wherever it stands, in a block scalar
/// too, so this needs no parser, and a broken document does not hide those after it.
pub(super) fn documents(stream: &str) -> Vec<Document<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let mut documents = Vec::new();
    let mut number = 0;
    let mut close = |marked: bool, line: u64, text| {
        let blank = is_blank(text);
        if marked || !blank {
            number += 1;
        }
        if !blank {
            documents.push(Document { number, line, text });
        }
    };
    let (mut start, mut start_line, mut marked) = (0, 1, false);
    let mut offset = 0;
    for (line, text) in (1..).zip(stream.split_inclusive('\n')) {
        if is_marker(text, "---") || is_marker(text, "...") {
            close(marked, start_line, &stream[start..offset]);
            // What follows the marker on its line belongs to the new document.
            (start, start_line, marked) = (offset + 3, line, text.starts_with('-'));
        }
        offset += text.len();
    }
    close(marked, start_line, &stream[start..]);
    documents
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether there is nothing but white space, comments and directives.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let trimmed = line.trim();
        trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%')
    })
}

/// Parses a document; mappings with a key twice are an error, and nulls are left out of
/// mappings, as the API server does.
pub(super) fn parse(document: &Document<'_>) -> Result<Value, Problem> {
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options::<Value>(document.text, options) {
        Ok(mut value) => {
            drop_nulls(&mut value);
            Ok(value)
        }
        Err(error) => Err(yaml_problem(&error, document.line)),
    }
}

fn yaml_problem(error: &YamlError, first_line: u64) -> Problem {
    let (line, column) = error
        .location()
        .map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
    let mut cause = error.without_snippet();
    while let YamlError::AliasError { error, .. } = cause {
        cause = error.without_snippet();
    }
    let fault = match cause {
        YamlError::DuplicateMappingKey { key, .. } => YamlFault::DuplicateKey(
            key.as_deref()
                .and_then(|key| FIELDS.iter().copied().find(|field| *field == key)),
        ),
        YamlError::NonFiniteFloat { .. } => YamlFault::Number,
        YamlError::UnknownAnchor { .. } => YamlFault::UnknownAnchor,
        YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::Budget { .. } => YamlFault::Limits,
        _ => YamlFault::Syntax,
    };
    Problem::Yaml {
        line: first_line + line - 1,
        column,
        fault,
    }
}

/// Keys that may be repeated in an error: those that cannot be somebody's secret.
const FIELDS: &[&str] = &[
    "address",
    "addressExtensions",
    "annotations",
    "apiVersion",
    "auth",
    "authProbes",
    "caCertSecretRef",
    "connectorClassName",
    "data",
    "interception",
    "items",
    "kind",
    "labels",
    "livenessProbe",
    "metadata",
    "name",
    "namespace",
    "params",
    "password",
    "secretRef",
    "spec",
    "status",
    "stringData",
    "token",
    "type",
    "username",
    "value",
];

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Overwrites every string in a value that may have come from a Secret.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        _ => {}
    }
}

/// Whether the names of unknown fields may be repeated in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// They may.
    Shown,
    /// They may not: in a Secret with wrong indentation, anything can be a name.
    Hidden,
}

/// Reads an object; the error is the path of the field below `prefix` and what is wrong.
pub(super) fn read<'de, T: Deserialize<'de>>(
    value: &'de Value,
    names: Names,
) -> Result<T, (String, Problem)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        schema_problem(path, &error.inner().to_string(), names)
    })
}

/// Rewrites serde's message; its quotes of the input are dropped, its vocabulary is kept.
fn schema_problem(path: String, message: &str, names: Names) -> (String, Problem) {
    if let Some(field) = between(message, "missing field `", "`") {
        return (join(&path, field), Problem::Missing);
    }
    // The last one: what comes before it may quote the input.
    let (before, expected) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    if message.starts_with("unknown field `") {
        let name = between(message, "unknown field `", "`").map(str::to_owned);
        let path = match &name {
            Some(name)
                if names == Names::Hidden
                    || path == *name
                    || path.ends_with(&format!(".{name}")) =>
            {
                parent(&path, name).to_owned()
            }
            _ => path,
        };
        // A field of a Secret may be a value that slipped; one that is a known name in other
        // letters is not.
        let name = name.filter(|name| names == Names::Shown || is_misspelt(name, expected));
        return (
            path,
            Problem::UnknownField {
                name,
                expected: quoted(expected),
            },
        );
    }
    if message.starts_with("unknown variant `") {
        return (
            path,
            Problem::UnknownValue {
                expected: quoted(expected),
            },
        );
    }
    if let Some(found) = before.strip_prefix("invalid type: ") {
        let found = found.split(['"', '`']).next().unwrap_or_default().trim();
        let problem = Problem::WrongType {
            expected: wanted(expected).to_owned(),
            found: kind(found).to_owned(),
        };
        return (path, problem);
    }
    (path, Problem::Malformed)
}

/// The path without its last part, if that is `name`.
fn parent<'a>(path: &'a str, name: &str) -> &'a str {
    path.strip_suffix(name)
        .map_or(path, |rest| rest.strip_suffix('.').unwrap_or(rest))
}

/// Joins two parts of a field path.
pub(super) fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", _) => field.to_owned(),
        (_, "") => path.to_owned(),
        _ if field.starts_with('[') => format!("{path}{field}"),
        _ => format!("{path}.{field}"),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?
        .split_once(after)
        .map(|(inside, _)| inside)
}

/// The words in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// serde's name of a type wanted, in the words of YAML.
/// Whether a name is one of those that serde lists in backquotes, but for its case.
fn is_misspelt(name: &str, expected: &str) -> bool {
    expected
        .split('`')
        .any(|known| known.eq_ignore_ascii_case(name))
}

fn wanted(expected: &str) -> &str {
    match expected {
        "a map" => "a mapping",
        "a sequence" => "a list",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        "string or map" | "variant identifier" => "a string",
        _ if expected.starts_with("struct ") => "a mapping",
        _ if expected.starts_with("a string") => "a string",
        _ => "of another type",
    }
}

/// serde's name of a type found, in the words of YAML.
fn kind(found: &str) -> &'static str {
    match found {
        "string" => "a string",
        "integer" | "floating point" => "a number",
        "boolean" => "true or false",
        "map" => "a mapping",
        "sequence" => "a list",
        _ => "what it is",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn numbers(stream: &str) -> Vec<(usize, u64)> {
        documents(stream)
            .iter()
            .map(|document| (document.number, document.line))
            .collect()
    }

    #[test]
    fn documents_are_counted_as_yaml_counts_them() {
        for (stream, expected) in [
            ("", vec![]),
            ("# nothing\n", vec![]),
            ("a: 1\n", vec![(1, 1)]),
            ("---\na: 1\n", vec![(1, 1)]),
            ("# comment\n\n---\na: 1\n---\nb: 1\n", vec![(1, 3), (2, 5)]),
            ("a: 1\n---\n---\nb: 1\n", vec![(1, 1), (3, 3)]),
            (
                "a: 1\n---\n# empty\n--- # and more\nb: 1\n---\n",
                vec![(1, 1), (3, 4)],
            ),
            (
                "%YAML 1.2\n---\na: 1\n...\n---\nb: 1\n",
                vec![(1, 2), (2, 5)],
            ),
            ("a: 1\r\n---\r\nb: 1\r\n", vec![(1, 1), (2, 2)]),
            ("a: |\n  ---\n  x\n", vec![(1, 1)]),
            ("--- {a: 1}\n--- {b: 1}", vec![(1, 1), (2, 2)]),
            ("a: ---x\n----\n", vec![(1, 1)]),
            ("\u{feff}---\na: 1\n", vec![(1, 1)]),
        ] {
            assert_eq!(numbers(stream), expected, "{stream:?}");
        }
    }

    fn fault(stream: &str) -> Problem {
        let document = &documents(stream)[0];
        parse(document).expect_err("the YAML is broken")
    }

    #[test]
    fn syntax_errors_have_the_line_of_the_file_and_no_text() {
        let Problem::Yaml {
            line,
            fault: YamlFault::Syntax,
            ..
        } = fault("---\n# x\na: 1\nb: [hunter2\nc: }\n")
        else {
            panic!("not a syntax error");
        };
        assert!((4..=6).contains(&line), "{line}");
    }

    #[test]
    fn a_key_twice_is_an_error() {
        for (stream, key) in [
            ("spec: {}\nname: a\nspec: {}\n", Some("spec")),
            ("data:\n  hunter2: a\n  hunter2: b\n", None),
        ] {
            let Problem::Yaml { line: 3, fault, .. } = fault(stream) else {
                panic!("{stream}");
            };
            assert_eq!(fault, YamlFault::DuplicateKey(key));
        }
    }

    #[test]
    fn alias_bombs_are_stopped() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            writeln!(bomb, "a{level}: &a{level} [{alias}]").expect("a String takes it");
        }
        assert!(matches!(
            fault(&bomb),
            Problem::Yaml {
                fault: YamlFault::Limits,
                ..
            }
        ));
    }

    #[test]
    fn text_that_reads_as_no_finite_number_wants_quotes() {
        for text in ["a: 7e999\n", "a: .nan\n", "a: -.inf\n"] {
            assert!(matches!(
                fault(text),
                Problem::Yaml {
                    fault: YamlFault::Number,
                    ..
                }
            ));
        }
    }

    #[test]
    fn nulls_are_absent() {
        let value = parse(&documents("a:\nb: null\nc: [~]\nd: {e: ~, f: 1}\n")[0]);
        assert_eq!(value, Ok(serde_json::json!({"c": [null], "d": {"f": 1}})));
    }
}
