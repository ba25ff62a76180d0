//! What separates a pod from the node and from its neighbours.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::cri;

/// What nobody in a container may read or write, as the kubelet says it.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// How a container is confined.
pub(super) fn of(spec: &PodSpec, container: &Container) -> cri::LinuxContainerSecurityContext {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let id = |value| cri::Int64Value { value };
    let paths = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
    cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: own.run_as_user.or(of_pod.run_as_user).map(id),
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(id),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
    }
}

/// Whether the pod is in the node's network.
pub(super) fn is_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// Which namespaces are the pod's own.
pub(super) fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let mode = |host: bool, own| if host { cri::NamespaceMode::Node } else { own };
    cri::NamespaceOption {
        network: mode(is_host_network(spec), cri::NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid == Some(true), cri::NamespaceMode::Container).into(),
        ipc: mode(spec.host_ipc == Some(true), cri::NamespaceMode::Pod).into(),
    }
}
