//! Checks of values against a schema.

use regex::Regex;
use serde_json::Value;

use super::flag;
use crate::error::FieldError;

/// What is wrong with a value.
pub fn validate(value: &Value, schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(value, schema, "", &mut errors);
    errors
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() {
        if !flag(schema, "nullable") && schema.get("type").is_some() {
            let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
            errors.push(FieldError::wrong_type(path, &Value::from("null"), &must_be(path, wanted, "null")));
        }
        return;
    }
    if let Some(wanted) = type_error(value, schema) {
        let found = type_of(value);
        errors.push(FieldError::wrong_type(path, &Value::from(found), &must_be(path, &wanted, found)));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
    match value {
        Value::String(text) => check_text(text, value, schema, path, errors),
        Value::Number(_) => check_number(value, schema, path, errors),
        Value::Array(items) => check_list(items, value, schema, path, errors),
        Value::Object(map) => check_map(map, value, schema, path, errors),
        _ => {}
    }
    check_combinations(value, schema, path, errors);
}

fn must_be(path: &str, wanted: &str, found: &str) -> String {
    format!("{path} in body must be of type {wanted}: \"{found}\"")
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that a value should have and does not.
fn type_error(value: &Value, schema: &Value) -> Option<String> {
    if flag(schema, "x-kubernetes-int-or-string") {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| "integer,string".to_owned());
    }
    let wanted = schema.get("type")?.as_str()?;
    let found = type_of(value);
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = wanted == found || (wanted == "number" && found == "integer") || (wanted == "integer" && whole);
    (!fits).then(|| wanted.to_owned())
}

fn limit(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name)?.as_u64().and_then(|limit| usize::try_from(limit).ok())
}

fn check_text(text: &str, value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count();
    if limit(schema, "minLength").is_some_and(|least| length < least) {
        let least = limit(schema, "minLength").unwrap_or_default();
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be at least {least} chars long")));
    }
    if let Some(most) = limit(schema, "maxLength").filter(|most| length > *most) {
        errors.push(FieldError {
            field: path.to_owned(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {most} bytes"),
        });
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let fits = Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
        if !fits {
            errors.push(FieldError::invalid(path, value, &format!("{path} in body should match '{pattern}'")));
        }
    }
    let well_formed = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => {
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
        }
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        Some("uri") => url::Url::parse(text).is_ok(),
        _ => true,
    };
    if !well_formed {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        errors.push(FieldError::invalid(path, value, &format!("{path} in body must be of type {format}: {value}")));
    }
}

fn check_number(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some(least) = bound("minimum") {
        let exclusive = flag(schema, "exclusiveMinimum");
        if number < least || (exclusive && number <= least) {
            let relation = if exclusive { "greater than" } else { "greater than or equal to" };
            errors.push(FieldError::invalid(path, value, &format!("{path} in body should be {relation} {least}")));
        }
    }
    if let Some(most) = bound("maximum") {
        let exclusive = flag(schema, "exclusiveMaximum");
        if number > most || (exclusive && number >= most) {
            let relation = if exclusive { "less than" } else { "less than or equal to" };
            errors.push(FieldError::invalid(path, value, &format!("{path} in body should be {relation} {most}")));
        }
    }
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0)
        && (number / step).fract() != 0.0
    {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be a multiple of {step}")));
    }
}

fn check_size(size: usize, limits: (&str, &str), value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(most) = limit(schema, limits.1).filter(|most| size > *most) {
        errors.push(FieldError {
            field: path.to_owned(),
            reason: "FieldValueTooMany",
            message: format!("Too many: {size}: must have at most {most} items"),
        });
    }
    if let Some(least) = limit(schema, limits.0).filter(|least| size < *least) {
        let what = if value.is_array() { "items" } else { "properties" };
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should have at least {least} {what}")));
    }
}

fn check_list(items: &[Value], value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    check_size(items.len(), ("minItems", "maxItems"), value, schema, path, errors);
    let keys: Vec<&str> =
        schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or("atomic");
    let identity = |item: &Value| -> Value {
        if kind == "map" { keys.iter().map(|key| item.get(*key).cloned().unwrap_or_default()).collect() } else { item.clone() }
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if (kind == "map" || kind == "set") && items[..index].iter().any(|other| identity(other) == identity(item)) {
            errors.push(FieldError::duplicate(path.clone(), item));
        }
        if let Some(schema) = schema.get("items") {
            check(item, schema, &path, errors);
        }
    }
}

fn check_map(
    map: &serde_json::Map<String, Value>,
    value: &Value,
    schema: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    check_size(map.len(), ("minProperties", "maxProperties"), value, schema, path, errors);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(FieldError::required(join(path, name), ""));
        }
    }
    for (name, child) in map {
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        let more = || schema.get("additionalProperties").filter(|more| more.is_object());
        if let Some(schema) = property.or_else(more) {
            check(child, schema, &join(path, name), errors);
        }
    }
}

fn check_combinations(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let all = |name: &str| schema.get(name).and_then(Value::as_array).map(Vec::as_slice);
    let passes = |schema: &Value| {
        let mut errors = Vec::new();
        check(value, schema, path, &mut errors);
        errors.is_empty()
    };
    for schema in all("allOf").unwrap_or_default() {
        check(value, schema, path, errors);
    }
    if all("anyOf").is_some_and(|schemas| !schemas.iter().any(passes)) {
        let why = format!("{path} in body must validate at least one schema (anyOf)");
        errors.push(FieldError::invalid(path, value, &why));
    }
    if all("oneOf").is_some_and(|schemas| schemas.iter().filter(|schema| passes(schema)).count() != 1) {
        let why = format!("{path} in body must validate one and only one schema (oneOf)");
        errors.push(FieldError::invalid(path, value, &why));
    }
    if schema.get("not").is_some_and(passes) {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body must not validate the schema (not)")));
    }
}
