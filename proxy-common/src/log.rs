//! What a program logs.

/// Names of the levels of `tracing`.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// From what `--log` was given to the directives of a filter: a level is that of the `program`,
/// which logs warnings at least. Other targets than our own are refused, because the libraries
/// below may log tokens, headers, and bodies with Secrets in them; `part` is an example of one
/// that is not.
pub fn directives(filter: &str, program: &str, part: &str) -> Result<String, String> {
    let mut directives = vec![format!("{program}=warn")];
    for directive in filter
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        if is_level(directive) {
            directives.push(format!("{program}={directive}"));
        } else if directive.starts_with("postern") {
            directives.push(directive.to_owned());
        } else {
            return Err(format!(
                "{directive:?} is neither a level ({}) nor a part of Postern, such as {part}",
                LEVELS.join(", ")
            ));
        }
    }
    Ok(directives.join(","))
}

/// By name, or by its number among them.
fn is_level(directive: &str) -> bool {
    let by_number = directive
        .parse()
        .is_ok_and(|number: usize| number < LEVELS.len());
    by_number || LEVELS.iter().any(|it| it.eq_ignore_ascii_case(directive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(filter: &str) -> Result<String, String> {
        directives(filter, "postern", "postern::access=info")
    }

    #[test]
    fn a_level_is_that_of_the_program() {
        assert_eq!(parsed("").as_deref(), Ok("postern=warn"));
        assert_eq!(parsed("debug").as_deref(), Ok("postern=warn,postern=debug"));
        let several = parsed("INFO, postern::access=trace");
        let expected = "postern=warn,postern=INFO,postern::access=trace";
        assert_eq!(several.as_deref(), Ok(expected));
        assert_eq!(parsed("4").as_deref(), Ok("postern=warn,postern=4"));
    }

    #[test]
    fn libraries_cannot_be_made_to_log() {
        for filter in ["kube_client=trace", "hyper", "info,kube=debug", "7"] {
            let error = parsed(filter).expect_err(filter);
            assert!(error.contains("such as postern::access=info"), "{error}");
        }
    }
}
