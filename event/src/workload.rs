//! Which systemd unit, pod and container a cgroup path stands for. Pure text work: names that need the file system
//! (a pod's name from its UID) are looked up by the daemon.
//!
//! Sources: systemd.unit(5) for slices and scopes, the kubelet's two cgroup drivers (`systemd`, `cgroupfs`), and the
//! container runtimes' prefixes (containerd, CRI-O, docker, podman).

/// What a cgroup path tells by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupOwner {
    /// The innermost systemd unit: a `.service`, `.scope`, `.mount`, `.socket` or, if there is none, a `.slice`.
    pub unit: Option<String>,
    /// The Kubernetes pod's UID with dashes.
    pub pod_uid: Option<String>,
    /// The container's id (64 hexadecimal digits).
    pub container_id: Option<String>,
}

/// Reads the owner out of a cgroup path such as
/// `/kubepods.slice/kubepods-pod1f….slice/cri-containerd-9a….scope`.
pub fn owner(path: &str) -> CgroupOwner {
    let mut found = CgroupOwner::default();
    let mut slice = None;
    for part in path.split('/') {
        if let Some((name, suffix)) = part.rsplit_once('.') {
            match suffix {
                "service" | "scope" | "mount" | "socket" => found.unit = Some(part.to_string()),
                "slice" => slice = Some(part.to_string()),
                _ => {}
            }
            if suffix == "slice" && name.starts_with("kubepods") {
                found.pod_uid = name.rsplit_once("-pod").and_then(|(_, uid)| pod_uid(uid));
            }
        }
        if let Some(uid) = part.strip_prefix("pod").and_then(pod_uid) {
            found.pod_uid = Some(uid);
        }
        if let Some(id) = container_id(part) {
            found.container_id = Some(id);
        }
    }
    if found.unit.is_none() {
        found.unit = slice;
    }
    found
}

/// A pod's UID, written with dashes (cgroupfs driver) or underscores (systemd driver).
fn pod_uid(s: &str) -> Option<String> {
    let uid = s.replace('_', "-");
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let hex = uid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    // Static pods' UIDs are the 32 digits of a hash without dashes.
    (hex && (groups == [8, 4, 4, 4, 12] || groups == [32])).then_some(uid)
}

fn container_id(part: &str) -> Option<String> {
    let s = part.strip_suffix(".scope").unwrap_or(part);
    let id = s.rsplit_once(['-', ':']).map_or(s, |(_, id)| id);
    (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9a3c1e5f7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b";

    fn check(path: &str, unit: Option<&str>, pod: Option<&str>, container: bool) {
        let o = owner(path);
        assert_eq!(o.unit.as_deref(), unit, "{path}");
        assert_eq!(o.pod_uid.as_deref(), pod, "{path}");
        assert_eq!(o.container_id.as_deref(), container.then_some(ID), "{path}");
    }

    #[test]
    fn owners() {
        let uid = "1f2e3d4c-5b6a-7980-a1b2-c3d4e5f60718";
        let under = uid.replace('-', "_");
        check("/", None, None, false);
        check("/system.slice/redis.service", Some("redis.service"), None, false);
        check("/system.slice/system-getty.slice", Some("system-getty.slice"), None, false);
        check("/user.slice/user-0.slice/session-1.scope", Some("session-1.scope"), None, false);
        check(
            &format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            Some(&format!("cri-containerd-{ID}.scope")),
            Some(uid),
            true,
        );
        check(&format!("/kubepods/besteffort/pod{uid}/{ID}"), None, Some(uid), true);
        check(&format!("/docker/{ID}"), None, None, true);
        check(&format!("/machine.slice/libpod-{ID}.scope"), Some(&format!("libpod-{ID}.scope")), None, true);
        check(
            &format!("/kubepods.slice/kubepods-pod{under}.slice:cri-containerd:{ID}"),
            Some("kubepods.slice"),
            None,
            true,
        );
    }
}
