//! Whether a response is what a probe hoped for.

use std::collections::HashMap;

use cel::{Context, Program, Value};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::ProbeResponse;

/// How a response is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Any 2xx will do.
    Success,
    /// 200 will do.
    Ok,
    /// A CEL expression of type bool decides.
    Cel(String),
}

impl Verdict {
    /// `Err` says what is wrong, without anything of the body.
    pub fn judge(&self, response: &ProbeResponse) -> Result<(), String> {
        let good = match self {
            Self::Success => response.status.is_success(),
            Self::Ok => response.status == http::StatusCode::OK,
            Self::Cel(expression) => evaluate(expression, response)?,
        };
        if good {
            Ok(())
        } else {
            Err(format!("status code {}", response.status.as_u16()))
        }
    }
}

/// Checks an expression without a response.
pub fn compile(expression: &str) -> Result<(), String> {
    program(expression).map(drop)
}

fn program(expression: &str) -> Result<Program, String> {
    Program::compile(expression).map_err(|error| format!("response.cel is not valid CEL: {error}"))
}

fn evaluate(expression: &str, response: &ProbeResponse) -> Result<bool, String> {
    let program = program(expression)?;
    let mut context = Context::default();
    context.add_variable_from_value("response", variable(expression, response));
    let status = response.status.as_u16();
    match program.execute(&context) {
        Ok(Value::Bool(verdict)) => Ok(verdict),
        Ok(other) => Err(format!(
            "response.cel must be true or false, not {}; status code {status}",
            other.type_of()
        )),
        // The evaluator's own message may quote the body.
        Err(_) => Err(format!(
            "response.cel cannot be evaluated on this response, perhaps for a field that is not \
             there; status code {status}"
        )),
    }
}

fn variable(expression: &str, response: &ProbeResponse) -> Value {
    let mut members: HashMap<&str, Value> = HashMap::from([
        (
            "statusCode",
            Value::Int(i64::from(response.status.as_u16())),
        ),
        ("headers", headers(expression, &response.headers)),
        (
            "bodyString",
            String::from_utf8_lossy(&response.body).into_owned().into(),
        ),
    ]);
    if is_json(&response.headers)
        && let Ok(body) = serde_json::from_slice(&response.body)
    {
        members.insert("body", json(body));
    }
    members.into()
}

/// Header lists under their lower-case names, and under every spelling that the expression
/// uses: names are case-insensitive, CEL's keys are not.
fn headers(expression: &str, headers: &HeaderMap) -> Value {
    let lower = expression.to_ascii_lowercase();
    let mut lists: HashMap<String, Value> = HashMap::new();
    for name in headers.keys() {
        let values: Vec<String> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        let name = name.as_str();
        for (at, _) in lower.match_indices(name) {
            // Lower-casing ASCII moves no byte.
            let spelling = &expression[at..at + name.len()];
            lists.insert(spelling.to_owned(), values.clone().into());
        }
        lists.insert(name.to_owned(), values.into());
    }
    lists.into()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// JSON as CEL; whole numbers are `int`, because that is what literals are.
fn json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => items.into_iter().map(json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (name, json(member)))
            .collect::<HashMap<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn response(status: u16, content_type: &'static str, body: &'static str) -> ProbeResponse {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.append("x-tag", HeaderValue::from_static("a"));
        headers.append("x-tag", HeaderValue::from_static("b"));
        ProbeResponse {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: body.into(),
        }
    }

    #[test]
    fn the_default_is_any_success() {
        for (status, good) in [
            (200, true),
            (204, true),
            (299, true),
            (301, false),
            (401, false),
        ] {
            let verdict = Verdict::Success.judge(&response(status, "text/plain", ""));
            assert_eq!(verdict.is_ok(), good, "{status}");
        }
        assert_eq!(
            Verdict::Success.judge(&response(503, "text/plain", "")),
            Err("status code 503".to_owned())
        );
        assert!(Verdict::Ok.judge(&response(204, "text/plain", "")).is_err());
    }

    #[test]
    fn expressions_see_status_headers_and_body() {
        const JSON: &str = r#"{"status": "UP", "valid": true, "count": 5, "list": [1, 2]}"#;
        for (expression, expected) in [
            ("response.statusCode == 200", true),
            (
                "response.statusCode == 401 || response.statusCode == 200",
                true,
            ),
            ("response.statusCode < 200", false),
            (
                "response.body.status == 'UP' && response.body.valid == true",
                true,
            ),
            (
                "response.body.count == 5 && response.body.list[1] == 2",
                true,
            ),
            ("has(response.body.missing)", false),
            ("response.bodyString.contains('UP')", true),
            ("response.bodyString.matches('\"status\": *\"UP\"')", true),
            (
                "response.headers['content-type'][0].startsWith('application/json')",
                true,
            ),
            (
                "response.headers['Content-Type'][0] == 'application/json; charset=utf-8'",
                true,
            ),
            ("response.headers['CONTENT-TYPE'].size() == 1", true),
            (
                "'b' in response.headers['X-Tag'] && 'a' in response.headers['x-tag']",
                true,
            ),
            ("'X-Missing' in response.headers", false),
        ] {
            let response = response(200, "application/json; charset=utf-8", JSON);
            assert_eq!(
                evaluate(expression, &response),
                Ok(expected),
                "{expression}"
            );
        }
    }

    #[test]
    fn a_body_is_json_only_if_it_says_so_and_is() {
        for (content_type, body, expected) in [
            ("application/json", "{}", true),
            ("Application/JSON", "{}", true),
            ("text/plain", "{}", false),
            ("application/json", "{", false),
        ] {
            let response = response(200, content_type, body);
            assert_eq!(
                evaluate("has(response.body)", &response),
                Ok(expected),
                "{content_type}"
            );
        }
    }

    #[test]
    fn expressions_that_decide_nothing_fail_without_the_body() {
        for expression in [
            "response.statusCode",
            "response.body.x.y",
            "nonsense",
            "1 +",
            "",
            "'a",
        ] {
            let error = evaluate(
                expression,
                &response(200, "application/json", "{\"x\": \"hunter2\"}"),
            )
            .expect_err(expression);
            assert!(error.contains("response.cel"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
