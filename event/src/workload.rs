//! Which systemd unit, pod and container a cgroup path stands for. Pure text work: names that need the file system
//! (a pod's name from its UID) are looked up by the daemon.
//!
//! Sources: systemd.unit(5) for slices and scopes, systemd's `cg_escape`, the kubelet's two cgroup drivers (`systemd`,
//! `cgroupfs`), and the container runtimes' prefixes (containerd, CRI-O, docker, podman). Nodes in containers (kind,
//! k3d) have a pod's path below that of the node's own container.

/// What a cgroup path tells by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupOwner {
    /// The innermost systemd unit of the host: a `.service`, `.scope`, `.mount`, `.socket` or `.swap` or, if there is
    /// none, a `.slice`. Units of a systemd that runs inside a container are none of the host's.
    pub unit: Option<String>,
    /// The innermost slice of the host.
    pub slice: Option<String>,
    /// The Kubernetes pod's UID with dashes.
    pub pod_uid: Option<String>,
    /// The container's id (64 hexadecimal digits).
    pub container_id: Option<String>,
}

/// Longest path that is looked at; the kernel's own limit for one.
const MAX_PATH: usize = 4096;

/// Reads the owner out of a cgroup path such as
/// `/kubepods.slice/kubepods-pod1f….slice/cri-containerd-9a….scope`.
pub fn owner(path: &str) -> CgroupOwner {
    let mut found = CgroupOwner::default();
    // Below a container or a machine the host has no units.
    let mut inside = false;
    for part in path.get(..path.len().min(MAX_PATH)).unwrap_or_default().split('/') {
        // `SLICE:PREFIX:ID`: a systemd path that a runtime with the other driver took for a directory.
        let (name, runtime) = match part.split_once(':') {
            Some((slice, rest)) if slice.ends_with(".slice") => (slice, Some(rest)),
            _ => (part, None),
        };
        if let Some(uid) = pod(name) {
            // What was found above is the node that the pod runs on.
            (found.pod_uid, found.container_id, inside) = (Some(uid), None, false);
        }
        let conmon = part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-");
        let id = container_id(runtime.unwrap_or(part)).filter(|_| !conmon);
        if !inside {
            match unit(name) {
                Some((unit, true)) => found.slice = Some(unit),
                Some((unit, false)) => found.unit = Some(unit),
                None => {}
            }
        }
        let machine = part == "payload" || part.starts_with("lxc.payload");
        inside |= id.is_some() || conmon || machine;
        found.container_id = id.or(found.container_id);
    }
    if found.unit.is_none() {
        found.unit.clone_from(&found.slice);
    }
    found
}

/// The unit that a directory stands for, and whether it is a slice. systemd puts `_` before names that the kernel or it
/// itself could take for something else.
fn unit(name: &str) -> Option<(String, bool)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let slice = match suffix {
        "slice" => true,
        "service" | "scope" | "mount" | "socket" | "swap" => false,
        _ => return None,
    };
    let name = if stem.starts_with('_') { &name[1..] } else { name };
    (!stem.trim_start_matches('_').is_empty()).then(|| (name.to_string(), slice))
}

/// The UID of the pod that a directory stands for: `pod1f…` (cgroupfs driver) or
/// `kubepods-burstable-pod1f….slice`, possibly below another slice (systemd driver).
fn pod(name: &str) -> Option<String> {
    if let Some(uid) = name.strip_prefix("pod") {
        return pod_uid(uid);
    }
    let slice = name.strip_suffix(".slice").filter(|s| s.contains("kubepods"))?;
    slice.rsplit_once("-pod").and_then(|(_, uid)| pod_uid(uid))
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
    use proptest::prelude::*;

    const ID: &str = "9a3c1e5f7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b";
    const NODE: &str = "0b3c1e5f7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b";
    const UID: &str = "1f2e3d4c-5b6a-7980-a1b2-c3d4e5f60718";
    const UNDER: &str = "1f2e3d4c_5b6a_7980_a1b2_c3d4e5f60718";
    const STATIC: &str = "8c1f2e3d4c5b6a7980a1b2c3d4e5f607";

    /// Paths with `ID`, `NODE`, `UID`, `UNDER` and `STATIC` filled in; then the unit, the pod and whether there is a
    /// container.
    const PATHS: &[(&str, &str, &str, bool)] = &[
        // systemd alone.
        ("/", "", "", false),
        ("", "", "", false),
        ("/system.slice/redis.service", "redis.service", "", false),
        ("/system.slice/postgresql@15-main.service", "postgresql@15-main.service", "", false),
        ("/system.slice/system-getty.slice", "system-getty.slice", "", false),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "", false),
        ("/user.slice/user-0.slice/session-1.scope", "session-1.scope", "", false),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-77.scope",
            "app-firefox-77.scope",
            "",
            false,
        ),
        (r"/system.slice/var-lib\x2dfoo.mount", r"var-lib\x2dfoo.mount", "", false),
        (r"/system.slice/dev-disk-by\x2duuid-1.swap", r"dev-disk-by\x2duuid-1.swap", "", false),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            r"machine-qemu\x2d1\x2dvm.scope",
            "",
            false,
        ),
        // systemd escapes what begins like a control file.
        ("/system.slice/_cgroup.weird.service", "cgroup.weird.service", "", false),
        ("/init.scope", "init.scope", "", false),
        // A container of systemd-nspawn or LXC has a systemd of its own.
        (
            "/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
            "machine-web.scope",
            "",
            false,
        ),
        ("/lxc.payload.web/system.slice/nginx.service", "", "", false),
        // Kubernetes, systemd driver, containerd.
        ("/kubepods.slice", "kubepods.slice", "", false),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice",
            "kubepods-burstable-podUNDER.slice",
            "UID",
            false,
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUNDER.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        (
            "/kubepods.slice/kubepods-podUNDER.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        // A static pod's UID is a hash.
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "STATIC",
            true,
        ),
        // A systemd inside the pod is none of the host's.
        (
            "/kubepods.slice/kubepods-podUNDER.slice/cri-containerd-ID.scope/system.slice/nginx.service",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        // The other driver's form taken for a directory.
        (
            "/system.slice/containerd.service/kubepods-podUNDER.slice:cri-containerd:ID",
            "containerd.service",
            "UID",
            true,
        ),
        ("/kubepods-podUNDER.slice:cri-containerd:ID", "kubepods-podUNDER.slice", "UID", true),
        // CRI-O, docker.
        ("/kubepods.slice/kubepods-podUNDER.slice/crio-ID.scope", "crio-ID.scope", "UID", true),
        ("/kubepods.slice/kubepods-podUNDER.slice/crio-ID.scope/container", "crio-ID.scope", "UID", true),
        (
            "/kubepods.slice/kubepods-podUNDER.slice/crio-conmon-ID.scope",
            "crio-conmon-ID.scope",
            "UID",
            false,
        ),
        ("/kubepods.slice/kubepods-podUNDER.slice/docker-ID.scope", "docker-ID.scope", "UID", true),
        // cgroupfs driver.
        ("/kubepods/burstable/podUID", "", "UID", false),
        ("/kubepods/burstable/podUID/ID", "", "UID", true),
        ("/kubepods/besteffort/podUID/ID", "", "UID", true),
        ("/kubepods/podUID/ID", "", "UID", true),
        ("/kubepods/burstable/podSTATIC/ID", "", "STATIC", true),
        ("/kubepods/burstable/podUID/crio-ID", "", "UID", true),
        ("/kubepods/burstable/podUID/crio-conmon-ID", "", "UID", false),
        // Nodes in containers: kind with either driver, k3d, k3s, a kubelet with a root of its own, microk8s.
        ("/docker/NODE/kubelet/kubepods/burstable/podUID/ID", "", "UID", true),
        ("/docker/NODE/kubelet/kubepods/burstable/podUID", "", "UID", false),
        (
            "/system.slice/docker-NODE.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUNDER.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        ("/docker/NODE/kubepods/besteffort/podUID/ID", "", "UID", true),
        ("/docker/NODE", "", "", true),
        ("/system.slice/k3s.service/kubepods/burstable/podUID/ID", "k3s.service", "UID", true),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUNDER.slice/cri-containerd-ID.scope",
            "cri-containerd-ID.scope",
            "UID",
            true,
        ),
        ("/libpod_parent/libpod-NODE/kubelet/kubepods/podUID/ID", "", "UID", true),
        // Containers without Kubernetes.
        ("/docker/ID", "", "", true),
        ("/system.slice/docker-ID.scope", "docker-ID.scope", "", true),
        ("/machine.slice/libpod-ID.scope", "libpod-ID.scope", "", true),
        ("/machine.slice/libpod-ID.scope/container", "libpod-ID.scope", "", true),
        ("/machine.slice/libpod-conmon-ID.scope", "libpod-conmon-ID.scope", "", false),
        ("/libpod_parent/libpod-ID", "", "", true),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "libpod-ID.scope",
            "",
            true,
        ),
        ("/system.slice/nerdctl-ID.scope", "nerdctl-ID.scope", "", true),
        ("/docker/ID/system.slice/nginx.service", "", "", true),
        // What only looks like one.
        ("/pod", "", "", false),
        ("/podUID-x/IDff", "", "", false),
        ("/kubepods/podzz2e3d4c-5b6a-7980-a1b2-c3d4e5f60718", "", "", false),
        ("/my-podUNDER.slice/x", "my-podUNDER.slice", "", false),
        ("/.service/..slice/_.scope", "..slice", "", false),
        ("/a.service.d/b", "", "", false),
    ];

    #[test]
    fn real_paths() {
        let fill = |s: &str| {
            s.replace("STATIC", STATIC)
                .replace("UNDER", UNDER)
                .replace("UID", UID)
                .replace("NODE", NODE)
                .replace("ID", ID)
        };
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        for (path, unit, pod, container) in PATHS {
            let path = fill(path);
            let o = owner(&path);
            assert_eq!((text(&o.unit), text(&o.pod_uid)), (fill(unit), fill(pod)), "{path}");
            // A node alone is a container as well.
            let id = if path.ends_with(NODE) { NODE } else { ID };
            assert_eq!(o.container_id.as_deref(), container.then_some(id), "{path}");
        }
        assert_eq!(owner("/a.slice/b.slice/c.service").slice.as_deref(), Some("b.slice"));
    }

    proptest! {
        #[test]
        fn hostile_paths_give_only_what_stands_there(path in "(/|pod|kubepods|[._:-]|scope|slice|service|[0-9a-f]{1,64}|\\PC){0,40}") {
            let o = owner(&path);
            for part in [o.unit, o.slice, o.container_id].into_iter().flatten() {
                prop_assert!(path.contains(&part) && !part.is_empty());
            }
        }
    }
}
