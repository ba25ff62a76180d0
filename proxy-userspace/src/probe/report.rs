//! What a check found, as a table.

use connectors::condition::{Condition, ConditionStatus, ConditionType};

/// What was found about one Connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Namespace and name.
    pub connector: String,
    /// Its class.
    pub class: String,
    /// Its address.
    pub address: String,
    /// What was observed, `Ready` last.
    pub conditions: Vec<Condition>,
}

impl Report {
    /// Whether everything holds.
    pub fn is_ready(&self) -> bool {
        self.status(ConditionType::Ready) == Some(ConditionStatus::True)
    }

    fn status(&self, type_: ConditionType) -> Option<ConditionStatus> {
        self.conditions
            .iter()
            .find(|it| it.type_ == type_)
            .map(|it| it.status)
    }
}

/// The conditions that have a column.
const COLUMNS: [ConditionType; 4] = [
    ConditionType::SecretReady,
    ConditionType::LivenessReady,
    ConditionType::AuthReady,
    ConditionType::Ready,
];

/// A table with one row for each Connector; below a row, what keeps it from being ready.
/// Ends in a newline.
pub fn render(reports: &[Report]) -> String {
    let mut rows = vec![vec![
        "CONNECTOR".to_owned(),
        "CLASS".to_owned(),
        "ADDRESS".to_owned(),
    ]];
    rows[0].extend(COLUMNS.iter().map(ToString::to_string));
    for report in reports {
        let mut row = vec![&report.connector, &report.class, &report.address];
        let statuses: Vec<String> = COLUMNS
            .iter()
            .map(|column| {
                report
                    .status(*column)
                    .map_or("-".to_owned(), |it| format!("{it:?}"))
            })
            .collect();
        row.extend(&statuses);
        rows.push(row.into_iter().map(|cell| printable(cell)).collect());
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut table = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        table.push_str(cells.join("  ").trim_end());
        table.push('\n');
        if let Some(report) = index.checked_sub(1).map(|index| &reports[index]) {
            explain(report, &mut table);
        }
    }
    table
}

fn explain(report: &Report, table: &mut String) {
    let causes = report
        .conditions
        .iter()
        .filter(|it| it.type_ != ConditionType::Ready && it.status != ConditionStatus::True);
    for condition in causes {
        let parts = [
            condition.type_.to_string(),
            condition.reason.to_owned(),
            printable(&condition.message),
        ];
        let parts: Vec<&str> = parts
            .iter()
            .map(|it| &**it)
            .filter(|it| !it.is_empty())
            .collect();
        table.push_str("  ");
        table.push_str(&parts.join(": "));
        table.push('\n');
    }
}

/// Messages may repeat what an upstream said; a terminal must not act on it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{ready, reason};

    fn report(connector: &str, address: &str, auth: Condition) -> Report {
        let mut conditions = vec![
            Condition::holds(ConditionType::SecretReady, ""),
            Condition::holds(ConditionType::LivenessReady, ""),
            auth,
        ];
        conditions.push(ready(&conditions));
        Report {
            connector: connector.to_owned(),
            class: "oci".to_owned(),
            address: address.to_owned(),
            conditions,
        }
    }

    #[test]
    fn a_table_says_what_is_not_ready_and_why() {
        let message = "Authentication failed: status code 401\u{1b}[2J".to_owned();
        let failed = Condition::fails(
            ConditionType::AuthReady,
            reason::AUTHENTICATION_FAILED,
            message,
        );
        let reports = [
            report(
                "default/hub",
                "https://registry.example.com",
                Condition::holds(ConditionType::AuthReady, ""),
            ),
            report("team-a/other", "https://b.example.com:5000", failed),
        ];
        assert_eq!(
            render(&reports),
            "\
CONNECTOR     CLASS  ADDRESS                       SecretReady  LivenessReady  AuthReady  Ready
default/hub   oci    https://registry.example.com  True         True           True       True
team-a/other  oci    https://b.example.com:5000    True         True           False      False
  AuthReady: AuthenticationFailed: Authentication failed: status code 401 [2J
"
        );
        assert!(reports[0].is_ready());
        assert!(!reports[1].is_ready());
    }
}
