//! Names of cgroup directories, as the kubelet's two drivers write them.
//!
//! | driver | Guaranteed | Burstable, `BestEffort` |
//! |---|---|---|
//! | cgroupfs | `kubepods/pod<uid>` | `kubepods/burstable/pod<uid>` |
//! | systemd | `kubepods.slice/kubepods-pod<uid>.slice` | `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice` |
//!
//! systemd reads `-` as a level, so its driver writes `_` in uids. A cluster inside a
//! container puts its own prefix in front: `kubelet-kubepods.slice`.

use std::fmt;

/// `metadata.uid` of a pod; for static pods the hash that their mirror carries as an
/// annotation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(String);

impl PodUid {
    /// The uid in the name of a pod's cgroup directory.
    pub fn from_directory(name: &str) -> Option<Self> {
        let uid = match name.strip_suffix(".slice") {
            Some(slice) => {
                let (before, uid) = slice.rsplit_once("-pod")?;
                if !is_kubepods_slice(before) {
                    return None;
                }
                uid.replace('_', "-")
            }
            None => name.strip_prefix("pod")?.to_owned(),
        };
        is_uid(&uid).then_some(Self(uid))
    }

    /// As the API server writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for PodUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory above all pods.
pub(super) fn is_kubepods(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// A directory for one class of quality of service.
pub(super) fn is_qos(name: &str) -> bool {
    matches!(name, "burstable" | "besteffort")
        || name
            .strip_suffix("-burstable.slice")
            .or_else(|| name.strip_suffix("-besteffort.slice"))
            .is_some_and(is_kubepods_slice)
}

/// `kubepods` with systemd's prefixes and, for a pod's own slice, its class.
fn is_kubepods_slice(path: &str) -> bool {
    let path = path
        .strip_suffix("-burstable")
        .or_else(|| path.strip_suffix("-besteffort"))
        .unwrap_or(path);
    path == "kubepods" || path.ends_with("-kubepods")
}

/// A UUID (RFC 9562), or the 32 hexadecimal digits of a static pod.
fn is_uid(uid: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    match uid.len() {
        32 => hex(uid),
        36 => {
            let lengths = [8, 4, 4, 4, 12];
            let parts: Vec<_> = uid.split('-').collect();
            parts.len() == lengths.len()
                && parts
                    .iter()
                    .zip(lengths)
                    .all(|(part, length)| part.len() == length && hex(part))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e4b2a1c-77d1-4f0e-9c55-2f6f3a1b9d10";

    #[test]
    fn both_drivers_and_nested_clusters_are_understood() {
        let systemd = UID.replace('-', "_");
        for name in [
            format!("pod{UID}"),
            format!("kubepods-pod{systemd}.slice"),
            format!("kubepods-burstable-pod{systemd}.slice"),
            format!("kubepods-besteffort-pod{systemd}.slice"),
            format!("kubelet-kubepods-besteffort-pod{systemd}.slice"),
            format!("kubelet-kubepods-pod{systemd}.slice"),
        ] {
            let uid = PodUid::from_directory(&name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(uid.as_str(), UID, "{name}");
        }
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            PodUid::from_directory(&format!("pod{hash}")).map(|uid| uid.to_string()),
            Some(hash.to_owned())
        );
    }

    #[test]
    fn other_directories_are_no_pods() {
        for name in [
            "pod",
            "podinfo",
            "pod1234",
            "kubepods.slice",
            "kubepods-burstable.slice",
            "cri-containerd-0123456789abcdef0123456789abcdef.scope",
            "user-pod0e4b2a1c_77d1_4f0e_9c55_2f6f3a1b9d10.slice",
            "kubepods-pod0e4b2a1c_77d1_4f0e_9c55.slice",
            "pod0e4b2a1c-77d1-4f0e-9c55-2f6f3a1b9dxx",
            "",
        ] {
            assert_eq!(PodUid::from_directory(name), None, "{name}");
        }
    }

    #[test]
    fn classes_are_told_from_pods() {
        for name in [
            "burstable",
            "besteffort",
            "kubepods-burstable.slice",
            "kubelet-kubepods-besteffort.slice",
        ] {
            assert!(is_qos(name), "{name}");
        }
        for name in [
            "guaranteed",
            "kubepods.slice",
            "app-burstable.slice",
            "system.slice",
        ] {
            assert!(!is_qos(name), "{name}");
        }
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
            assert!(is_kubepods(name), "{name}");
        }
        assert!(!is_kubepods("notkubepods.slice") && !is_kubepods("kubepods-x.slice"));
    }
}
