//! The part of JSONPath that printer columns and selectable fields use: names, indexes,
//! `[*]` and filters that compare with `==`.

use serde_json::Value;

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Name(&'a str),
    Index(i64),
    All,
    /// Items whose member at the path is that text.
    Where(&'a str, &'a str),
}

/// All values at a path such as `.status.conditions[?(@.type=="Ready")].status`.
pub fn find<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![value];
    for step in steps(path) {
        found = found.into_iter().flat_map(|value| take(value, &step)).collect();
    }
    found
}

fn take<'v>(value: &'v Value, step: &Step<'_>) -> Vec<&'v Value> {
    match (step, value) {
        (Step::Name(name), Value::Object(map)) => map.get(*name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let index = if *index < 0 { length + index } else { *index };
            usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Where(path, wanted), Value::Array(items)) => items
            .iter()
            .filter(|item| {
                find(item, path).iter().any(|value| match value {
                    Value::String(text) => text == wanted,
                    other => other.to_string() == *wanted,
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let (mut rest, mut found) = (path.trim().trim_start_matches('$'), Vec::new());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after);
            if let Some(step) = bracket(&after[..end]) {
                found.push(step);
            }
            rest = after.get(end + 1..).unwrap_or_default();
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = name_end(after);
            if end > 0 {
                found.push(if &after[..end] == "*" { Step::All } else { Step::Name(&after[..end]) });
            } else if !after.starts_with(['[', '.']) {
                break;
            }
            rest = &after[end..];
        }
    }
    found
}

/// Where a name ends; a dot after a backslash belongs to it.
fn name_end(text: &str) -> usize {
    text.find(['.', '[']).unwrap_or(text.len())
}

/// The bracket that closes, not counting those between quotes.
fn closing(text: &str) -> usize {
    let mut quote = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (None, ']') => return index,
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn bracket(inside: &str) -> Option<Step<'_>> {
    let inside = inside.trim();
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, wanted) = filter.split_once("==")?;
        return Some(Step::Where(path.trim().trim_start_matches('@'), unquote(wanted.trim())));
    }
    if let Ok(index) = inside.parse() {
        return Some(Step::Index(index));
    }
    Some(Step::Name(unquote(inside)))
}

fn unquote(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}
