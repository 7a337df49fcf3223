//! Names of pods and containers without an API call: the kubelet's directories below `/var/log/pods` and the links below
//! `/var/log/containers` carry them, and cgroup paths carry the ids that they belong to.
//!
//! Sources: the kubelet's `BuildPodLogsDirectory` (`NAMESPACE_POD_UID`) and `LogSymlink` (`POD_NAMESPACE_CONTAINER-ID.log`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use whystall_engine::verdict::{Verdict, Workload};
use whystall_event::workload;

/// Names older than this are read again before they are used.
const EXPIRY_NS: u64 = 60_000_000_000;
/// An unknown id makes them be read again, but not more often than this.
const RETRY_NS: u64 = 5_000_000_000;
/// Directory entries that are looked at.
const MAX_ENTRIES: usize = 20_000;

/// Where the kubelet keeps its logs.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/var/log/pods`
    pub pods: PathBuf,
    /// `/var/log/containers`
    pub containers: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places { pods: "/var/log/pods".into(), containers: "/var/log/containers".into() }
    }
}

/// A pod, as its log directory names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A container, as its log link names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The pod it runs in.
    pub pod: Pod,
    /// Its name.
    pub name: String,
}

/// Reads a directory name below `/var/log/pods`: the pod's UID and the pod. Kubernetes' names have no underscores.
pub fn parse_pod_dir(name: &str) -> Option<(&str, Pod)> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let filled = parts.next().is_none() && ![namespace, pod, uid].contains(&"");
    filled.then(|| (uid, Pod { namespace: namespace.into(), name: pod.into() }))
}

/// Reads a link's name below `/var/log/containers`: the container's id and the container.
pub fn parse_container_link(name: &str) -> Option<(&str, Container)> {
    let mut parts = name.strip_suffix(".log")?.split('_');
    let (pod, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let filled = parts.next().is_none() && ![pod, namespace, container].contains(&"");
    let found =
        || Container { pod: Pod { namespace: namespace.into(), name: pod.into() }, name: container.into() };
    (is_id && filled).then(|| (id, found()))
}

/// Known names.
#[derive(Debug, Default)]
pub struct Names {
    places: Places,
    pods: HashMap<String, Pod>,
    containers: HashMap<String, Container>,
    read_ns: Option<u64>,
}

impl Names {
    /// Names from these places; nothing is read yet.
    pub fn new(places: Places) -> Names {
        Names { places, ..Names::default() }
    }

    /// Puts names into every workload of a verdict. `now_ns` is any steady clock.
    pub fn decorate(&mut self, v: &mut Verdict, now_ns: u64) {
        let subject = v.subject.strip_prefix("cgroup:").map(str::to_string);
        self.fill(&mut v.workload, subject.as_deref(), now_ns);
        for a in v.victims.iter_mut().chain(&mut v.culprits) {
            let cgroup = a.cgroup.clone();
            self.fill(&mut a.workload, cgroup.as_deref(), now_ns);
        }
    }

    fn fill(&mut self, workload: &mut Option<Workload>, cgroup: Option<&str>, now_ns: u64) {
        let Some(owner) = cgroup.map(workload::owner) else { return };
        if owner == workload::CgroupOwner::default() {
            return;
        }
        let w = workload.get_or_insert_default();
        w.unit = w.unit.take().or(owner.unit);
        let (uid, id) = (owner.pod_uid, owner.container_id);
        if uid.is_none() && id.is_none() {
            return;
        }
        self.refresh(uid.as_deref(), id.as_deref(), now_ns);
        let container = id.as_deref().and_then(|id| self.containers.get(id));
        let pod = uid.as_deref().and_then(|u| self.pods.get(u)).or(container.map(|c| &c.pod));
        if let Some(pod) = pod {
            w.namespace = Some(pod.namespace.clone());
        }
        w.pod = pod.map(|p| p.name.clone()).or(w.pod.take()).or(uid);
        w.container = container.map(|c| c.name.clone()).or(w.container.take()).or(id);
    }

    fn refresh(&mut self, uid: Option<&str>, id: Option<&str>, now_ns: u64) {
        let known = uid.is_none_or(|u| self.pods.contains_key(u))
            && id.is_none_or(|i| self.containers.contains_key(i));
        let keep = if known { EXPIRY_NS } else { RETRY_NS };
        if self.read_ns.is_some_and(|at| now_ns.saturating_sub(at) < keep) {
            return;
        }
        self.read_ns = Some(now_ns);
        self.pods = entries(&self.places.pods, parse_pod_dir);
        self.containers = entries(&self.places.containers, parse_container_link);
    }
}

/// The entries of a directory that `parse` understands; none if it cannot be read, as on hosts without Kubernetes.
fn entries<T>(dir: &Path, parse: fn(&str) -> Option<(&str, T)>) -> HashMap<String, T> {
    let Ok(list) = std::fs::read_dir(dir) else { return HashMap::new() };
    list.take(MAX_ENTRIES)
        .filter_map(|e| {
            let name = e.ok()?.file_name();
            let (id, what) = parse(name.to_str()?)?;
            Some((id.to_string(), what))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9a3c1e5f7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b";
    const UID: &str = "1f2e3d4c-5b6a-7980-a1b2-c3d4e5f60718";

    #[test]
    fn pod_directories() {
        let pod = Pod { namespace: "shop".into(), name: "cart-7f".into() };
        assert_eq!(parse_pod_dir(&format!("shop_cart-7f_{UID}")), Some((UID, pod)));
        for bad in ["", "shop", "shop_cart", "shop__uid", "a_b_c_d", "_b_c"] {
            assert_eq!(parse_pod_dir(bad), None, "{bad}");
        }
    }

    #[test]
    fn container_links() {
        let pod = Pod { namespace: "shop".into(), name: "cart-7f".into() };
        let link = format!("cart-7f_shop_my-app-{ID}.log");
        assert_eq!(parse_container_link(&link), Some((ID, Container { pod, name: "my-app".into() })));
        for bad in [
            "",
            "x.log",
            &format!("cart_shop_{ID}.log"),
            &link.replace(".log", ""),
            &format!("a_b_c-{}.log", &ID[1..]),
        ] {
            assert_eq!(parse_container_link(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_found_cached_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { pods: dir.path().join("pods"), containers: dir.path().join("containers") };
        let mut names = Names::new(places.clone());
        let cgroup = format!("/kubepods/pod{UID}/{ID}");
        let mut look = |now: u64| {
            let mut w = None;
            names.fill(&mut w, Some(&cgroup), now);
            let w: Workload = w.unwrap();
            (w.namespace, w.pod.unwrap(), w.container.unwrap())
        };
        assert_eq!(look(0), (None, UID.into(), ID.into()), "ids where there are no names");
        std::fs::create_dir_all(places.pods.join(format!("shop_cart-7f_{UID}"))).unwrap();
        std::fs::create_dir_all(&places.containers).unwrap();
        std::os::unix::fs::symlink("/x", places.containers.join(format!("cart-7f_shop_app-{ID}.log")))
            .unwrap();
        assert_eq!(look(RETRY_NS - 1).0, None, "not read again so soon");
        assert_eq!(look(RETRY_NS), (Some("shop".into()), "cart-7f".into(), "app".into()));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(look(EXPIRY_NS).1, "cart-7f", "kept");
        assert_eq!(look(RETRY_NS + EXPIRY_NS).1, UID, "expired");
    }
}
