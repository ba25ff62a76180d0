//! From desired conditions to a status, and whether it has to be written.

use connectors::condition::{Condition, ConditionType};
use proxy_common::api::{self, ConnectorStatus};

/// Merges desired conditions into the status that an object has; `None` means that it says
/// all of this already, and nothing is to be written.
///
/// `now` (RFC 3339) becomes the time of the last transition where `status` of a condition
/// changes; elsewhere the time stays. The result holds the fields that the controller owns.
pub fn merge(
    current: Option<&ConnectorStatus>,
    desired: &[Condition],
    generation: Option<i64>,
    now: &str,
) -> Option<ConnectorStatus> {
    let before = current.map_or(&[][..], |status| &status.conditions);
    let conditions: Vec<api::Condition> = desired
        .iter()
        .map(|condition| transition(before, condition, now))
        .collect();
    let unchanged = current.is_some_and(|status| {
        status.observed_generation == generation && status.conditions == conditions
    });
    (!unchanged).then(|| ConnectorStatus {
        observed_generation: generation,
        conditions,
        ..ConnectorStatus::default()
    })
}

/// Whether a status has this condition, whenever that came about.
pub fn says(status: &ConnectorStatus, condition: &Condition) -> bool {
    let type_ = condition.type_.to_string();
    status.conditions.iter().any(|it| {
        it.type_ == type_
            && it.status == condition.status
            && it.reason == some(condition.reason)
            && it.message == some(&condition.message)
    })
}

fn transition(before: &[api::Condition], desired: &Condition, now: &str) -> api::Condition {
    let type_ = desired.type_.to_string();
    let since = before
        .iter()
        .find(|it| it.type_ == type_ && it.status == desired.status)
        .and_then(|it| it.last_transition_time.clone())
        .unwrap_or_else(|| now.to_owned());
    let informative = desired.type_ == ConditionType::CACertReady;
    api::Condition {
        type_,
        status: desired.status,
        reason: some(desired.reason),
        message: some(&desired.message),
        severity: informative.then(|| "Info".to_owned()),
        last_transition_time: Some(since),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use connectors::condition::{ConditionStatus, ready, reason};

    use super::*;

    const EARLIER: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn desired(secret_is_there: bool) -> Vec<Condition> {
        let secret = if secret_is_there {
            Condition::holds(ConditionType::SecretReady, "")
        } else {
            let message = "secrets \"login\" not found".to_owned();
            Condition::fails(
                ConditionType::SecretReady,
                reason::SECRET_NOT_FOUND,
                message,
            )
        };
        let class = Condition::holds(ConditionType::ConnectorClassReady, "");
        let ca_cert = Condition::holds(ConditionType::CACertReady, reason::NO_CA_CERT);
        let mut conditions = vec![class, secret, ca_cert];
        conditions.push(ready(&conditions));
        conditions
    }

    fn times(status: &ConnectorStatus) -> Vec<&str> {
        let time = |it: &'_ api::Condition| it.last_transition_time.is_some();
        assert!(status.conditions.iter().all(time));
        status
            .conditions
            .iter()
            .filter_map(|it| it.last_transition_time.as_deref())
            .collect()
    }

    #[test]
    fn a_first_status_is_written_with_the_time_of_now() {
        let status = merge(None, &desired(true), Some(1), NOW).expect("to be written");
        assert_eq!(status.observed_generation, Some(1));
        assert_eq!(times(&status), [NOW; 4]);
        let types: Vec<&str> = status.conditions.iter().map(|it| &*it.type_).collect();
        assert_eq!(
            types,
            ["ConnectorClassReady", "SecretReady", "CACertReady", "Ready"]
        );
        assert_eq!(status.conditions[1].reason, None);
        assert_eq!(status.conditions[2].severity.as_deref(), Some("Info"));
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let status = merge(None, &desired(false), Some(1), EARLIER);
        assert_eq!(merge(status.as_ref(), &desired(false), Some(1), NOW), None);
    }

    #[test]
    fn what_others_own_is_neither_compared_nor_written() {
        let mut status = merge(None, &desired(true), Some(1), EARLIER).expect("to be written");
        status.annotations.insert("a".to_owned(), "b".to_owned());
        status.api = Some(api::ApiStatus::default());
        assert_eq!(merge(Some(&status), &desired(true), Some(1), NOW), None);
        let written = merge(Some(&status), &desired(true), Some(2), NOW).expect("to be written");
        assert!(written.annotations.is_empty() && written.api.is_none());
    }

    #[test]
    fn only_a_changed_status_moves_the_time_of_a_condition() {
        let status = merge(None, &desired(true), Some(1), EARLIER);
        let changed = merge(status.as_ref(), &desired(false), Some(1), NOW).expect("to be written");
        assert_eq!(times(&changed), [EARLIER, NOW, EARLIER, NOW]);
        assert_eq!(changed.conditions[1].status, ConditionStatus::False);

        let mut other_words = desired(false);
        other_words[1].message = "secrets \"other\" not found".to_owned();
        let reworded =
            merge(Some(&changed), &other_words, Some(1), "later").expect("to be written");
        assert_eq!(times(&reworded), [EARLIER, NOW, EARLIER, NOW]);
    }

    #[test]
    fn a_new_generation_is_written_even_if_all_conditions_stay() {
        let status = merge(None, &desired(true), Some(1), EARLIER);
        let next = merge(status.as_ref(), &desired(true), Some(2), NOW).expect("to be written");
        assert_eq!(times(&next), [EARLIER; 4]);
    }

    #[test]
    fn a_condition_that_is_no_longer_desired_goes() {
        let status = merge(None, &desired(true), Some(1), EARLIER);
        let next = merge(status.as_ref(), &desired(true)[..1], Some(1), NOW);
        assert_eq!(next.expect("to be written").conditions.len(), 1);
    }
}
