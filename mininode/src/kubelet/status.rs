//! From what the container runtime says to a pod's status.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::Host;
use crate::cri;

/// Whether a pod's containers have ended for good.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a container that ended is started again.
pub(super) fn restarts(spec: &PodSpec, exit_code: i32) -> bool {
    match spec.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    }
}

/// The status of a pod that has a sandbox with these addresses, and its containers, each as the
/// runtime sees its newest instance.
pub(super) fn of(
    host: &Host,
    spec: &PodSpec,
    addresses: &[String],
    containers: &[cri::ContainerStatus],
    ending: bool,
) -> PodStatus {
    let phase = phase(spec, containers, ending);
    let ready = phase == "Running" && containers.iter().all(is_running);
    let condition = |kind: &str, met: bool| PodCondition {
        type_: kind.to_owned(),
        status: if met { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        host_ip: Some(host.address.to_string()),
        host_ips: Some(vec![HostIP {
            ip: host.address.to_string(),
        }]),
        pod_ip: addresses.first().cloned(),
        pod_ips: Some(
            addresses
                .iter()
                .map(|ip| PodIP { ip: ip.clone() })
                .collect(),
        ),
        container_statuses: Some(containers.iter().map(|one| container(spec, one)).collect()),
        conditions: Some(vec![
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ]),
        ..PodStatus::default()
    }
}

/// The status of a pod that cannot run.
pub(super) fn failed(host: &Host, reason: &str) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some("Failed".to_owned()),
        message: Some(reason.to_owned()),
        host_ip: Some(host.address.to_string()),
        ..PodStatus::default()
    }
}

fn is_running(status: &cri::ContainerStatus) -> bool {
    status.state() == cri::ContainerState::ContainerRunning
}

fn has_ended(status: &cri::ContainerStatus) -> bool {
    status.state() == cri::ContainerState::ContainerExited
}

fn phase(spec: &PodSpec, containers: &[cri::ContainerStatus], ending: bool) -> &'static str {
    let over =
        |one: &cri::ContainerStatus| has_ended(one) && (ending || !restarts(spec, one.exit_code));
    if containers.iter().all(over) {
        if containers.iter().all(|one| one.exit_code == 0) {
            "Succeeded"
        } else {
            "Failed"
        }
    } else {
        "Running"
    }
}

fn container(spec: &PodSpec, status: &cri::ContainerStatus) -> ContainerStatus {
    let metadata = status.metadata.clone().unwrap_or_default();
    let image = spec
        .containers
        .iter()
        .find(|container| container.name == metadata.name)
        .and_then(|container| container.image.clone());
    ContainerStatus {
        container_id: Some(format!("containerd://{}", status.id)),
        image: image.unwrap_or_default(),
        image_id: status.image_ref.clone(),
        ready: is_running(status),
        started: Some(is_running(status)),
        restart_count: metadata.attempt.cast_signed(),
        state: Some(state(status)),
        name: metadata.name,
        ..ContainerStatus::default()
    }
}

fn state(status: &cri::ContainerStatus) -> ContainerState {
    let mut state = ContainerState::default();
    if is_running(status) {
        state.running = Some(ContainerStateRunning {
            started_at: time(status.started_at),
        });
    } else if has_ended(status) {
        state.terminated = Some(ContainerStateTerminated {
            exit_code: status.exit_code,
            reason: Some(status.reason.clone()),
            message: Some(status.message.clone()).filter(|message| !message.is_empty()),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            container_id: Some(format!("containerd://{}", status.id)),
            ..ContainerStateTerminated::default()
        });
    } else {
        state.waiting = Some(ContainerStateWaiting {
            reason: Some("ContainerCreating".to_owned()),
            ..ContainerStateWaiting::default()
        });
    }
    state
}

/// From nanoseconds; 0 is not yet.
fn time(nanoseconds: i64) -> Option<Time> {
    let time = Timestamp::from_nanosecond(nanoseconds.into()).ok()?;
    (nanoseconds != 0).then_some(Time(time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(exit_code: i32) -> cri::ContainerStatus {
        cri::ContainerStatus {
            state: cri::ContainerState::ContainerExited.into(),
            exit_code,
            ..cri::ContainerStatus::default()
        }
    }

    #[test]
    fn phases_follow_from_exit_codes_and_the_restart_policy() {
        let running = cri::ContainerStatus {
            state: cri::ContainerState::ContainerRunning.into(),
            ..cri::ContainerStatus::default()
        };
        for (policy, containers, expected) in [
            ("Never", vec![ended(0), running], "Running"),
            ("Never", vec![ended(0), ended(0)], "Succeeded"),
            ("Never", vec![ended(0), ended(3)], "Failed"),
            ("OnFailure", vec![ended(0)], "Succeeded"),
            ("OnFailure", vec![ended(3)], "Running"),
            ("Always", vec![ended(0)], "Running"),
        ] {
            let spec = json!({"containers": [], "restartPolicy": policy});
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(phase(&spec, &containers, false), expected, "{policy}");
            if containers.iter().all(has_ended) {
                assert_ne!(phase(&spec, &containers, true), "Running", "{policy}");
            }
        }
    }

    #[test]
    fn times_are_nanoseconds() {
        assert_eq!(time(0), None);
        let second = time(1_500_000_000).unwrap();
        assert_eq!(second.0.to_string(), "1970-01-01T00:00:01.5Z");
    }
}
