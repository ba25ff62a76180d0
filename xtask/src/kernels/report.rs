//! How the tests on a kernel went. What is not said to have passed has failed.

/// What a machine told.
pub(super) struct Outcome {
    /// The kernel that it ran, as `uname -r` prints it.
    pub(super) release: Option<String>,
    /// Tests that passed.
    pub(super) passed: usize,
    /// Tests of which it did not say so.
    pub(super) failed: Vec<String>,
    /// Everything that the tests wrote.
    pub(super) output: String,
    /// With what status they ended.
    status: Option<String>,
}

impl Outcome {
    /// Reads the results: what the test program writes, between two lines that start with
    /// `token`.
    pub(super) fn of(results: &str, token: &str, expected: &[String]) -> Self {
        let told = |what: &str| {
            let start = format!("{token} {what} ");
            let told = results.lines().find_map(|line| line.strip_prefix(&start));
            told.map(str::to_owned)
        };
        let passed = |name: &str| {
            let line = format!("test {name} ... ok");
            results.lines().any(|found| found == line)
        };
        let failed: Vec<_> = expected
            .iter()
            .filter(|name| !passed(name))
            .cloned()
            .collect();
        let ours = |line: &&str| !line.starts_with(token);
        Self {
            release: told("kernel"),
            passed: expected.len() - failed.len(),
            failed,
            output: results.lines().filter(ours).collect::<Vec<_>>().join("\n"),
            status: told("ended"),
        }
    }

    /// Every test has passed, and the test program says so as well.
    pub(super) fn is_success(&self) -> bool {
        self.failed.is_empty() && self.release.is_some() && self.status.as_deref() == Some("0")
    }

    /// Why there is more to say than which tests failed.
    pub(super) fn incomplete(&self, in_time: bool) -> Option<&'static str> {
        match (&self.release, self.status.as_deref()) {
            _ if !in_time => Some("the machine did not end in time"),
            (None, _) => Some("the machine did not come to the tests"),
            (_, None) => Some("the machine ended before the tests"),
            (_, Some("101")) => None,
            _ => Some("the test program did not end as it should"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "T kernel 5.10.0-32\ntest kernel::a ... ok\ntest kernel::b ... ok\nT ended 0\n";

    fn outcome(results: &str) -> Outcome {
        Outcome::of(results, "T", &["kernel::a".into(), "kernel::b".into()])
    }

    #[test]
    fn success_is_every_test_by_name_and_the_status() {
        let good = outcome(GOOD);
        assert!(good.is_success());
        assert_eq!(
            (good.passed, good.release.as_deref()),
            (2, Some("5.10.0-32"))
        );
        for (part, instead) in [
            ("test kernel::b ... ok\n", ""),
            ("kernel::b ... ok", "kernel::b ... FAILED"),
            ("ended 0", "ended 101"),
            ("T ended 0\n", ""),
            ("T kernel 5.10.0-32\n", ""),
            ("T ended 0", "ended 0"),
        ] {
            let results = GOOD.replace(part, instead);
            assert!(!outcome(&results).is_success(), "{results}");
        }
        assert!(!outcome("").is_success());
    }

    #[test]
    fn failed_tests_are_told_from_a_machine_that_went_wrong() {
        let failed = outcome(
            &GOOD
                .replace("b ... ok", "b ... FAILED")
                .replace("ended 0", "ended 101"),
        );
        assert_eq!(failed.failed, ["kernel::b"]);
        assert_eq!(failed.incomplete(true), None);
        assert!(failed.output.contains("FAILED") && !failed.output.contains("ended"));
        assert!(failed.incomplete(false).is_some());
        for results in ["", "T kernel 1\n", "T kernel 1\nT ended 139\n"] {
            assert!(outcome(results).incomplete(true).is_some(), "{results}");
        }
    }
}
