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

    /// Puts names into every workload of a verdict, and instead of paths into its sentences. `now_ns` is any steady
    /// clock.
    pub fn decorate(&mut self, v: &mut Verdict, now_ns: u64) {
        let mut short: Vec<(String, String)> = Vec::new();
        let mut note = |path: &str, w: &Option<Workload>| {
            if let Some(name) = w.as_ref().and_then(Workload::short) {
                short.push((path.to_string(), name));
            }
        };
        if let Some(path) = v.subject.strip_prefix("cgroup:") {
            v.workload = self.workload(path, now_ns).or(v.workload.take());
            note(path, &v.workload);
        }
        for a in v.victims.iter_mut().chain(&mut v.culprits) {
            if let Some(path) = &a.cgroup {
                a.workload = self.workload(path, now_ns).or(a.workload.take());
                note(path, &a.workload);
            }
        }
        for path in v.chain.iter().filter_map(|l| l.subject.strip_prefix("cgroup:")) {
            note(path, &self.workload(path, now_ns));
        }
        // A container's path begins with its pod's.
        short.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        short.dedup();
        for (path, name) in &short {
            v.summary = named(&v.summary, path, name);
            v.chain.iter_mut().for_each(|l| l.summary = named(&l.summary, path, name));
        }
    }

    /// What a cgroup belongs to, with names as far as they are known and ids where they are not.
    pub fn workload(&mut self, cgroup: &str, now_ns: u64) -> Option<Workload> {
        let mut w = workload_of(cgroup)?;
        let (uid, id) = (w.pod.take(), w.container.take());
        if uid.is_none() && id.is_none() {
            return Some(w);
        }
        self.refresh(uid.as_deref(), id.as_deref(), now_ns);
        let container = id.as_deref().and_then(|id| self.containers.get(id));
        let pod = uid.as_deref().and_then(|u| self.pods.get(u)).or(container.map(|c| &c.pod));
        w.namespace = pod.map(|p| p.namespace.clone());
        let only = || self.only_container(pod?, uid.as_deref()?);
        w.container = container.map(|c| c.name.clone()).or_else(|| id.as_ref().and_then(|_| only())).or(id);
        w.pod = pod.map(|p| p.name.clone()).or(uid);
        Some(w)
    }

    /// The container of a pod that has no other, by its directory below the pod's. Where runtimes make no links this is
    /// all that there is.
    fn only_container(&self, pod: &Pod, uid: &str) -> Option<String> {
        let dir = self.places.pods.join(format!("{}_{}_{uid}", pod.namespace, pod.name));
        let mut names =
            std::fs::read_dir(dir).ok()?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        let first = names.next()?.file_name().into_string().ok()?;
        names.next().is_none().then_some(first)
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

/// What a cgroup's path tells by itself, with ids instead of names.
pub fn workload_of(cgroup: &str) -> Option<Workload> {
    let o = workload::owner(cgroup);
    let w = Workload { namespace: None, pod: o.pod_uid, container: o.container_id, unit: o.unit };
    (w != Workload::default()).then_some(w)
}

/// `text` with `name` wherever `path` stands as a word of its own, not as the beginning of a longer path.
fn named(text: &str, path: &str, name: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(path) {
        let (before, after) = (&rest[..at], &rest[at + path.len()..]);
        let before = before.strip_suffix("cgroup:").unwrap_or(before);
        let ends = |c: char| c.is_whitespace() || ",;:)]}'\"`".contains(c);
        if after.starts_with(ends) || after.is_empty() || after == "." || after.starts_with(". ") {
            out.push_str(before);
            out.push_str(name);
        } else {
            out.push_str(&rest[..at + path.len()]);
        }
        rest = after;
    }
    out.push_str(rest);
    out
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
            let w = names.workload(&cgroup, now).unwrap();
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

    #[test]
    fn sentences_name_pods_instead_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { pods: dir.path().join("pods"), containers: dir.path().join("containers") };
        std::fs::create_dir_all(places.pods.join(format!("shop_cart-7f_{UID}/app"))).unwrap();
        let mut names = Names::new(places);
        let (pod, container) = (format!("/kubepods/pod{UID}"), format!("/kubepods/pod{UID}/{ID}"));
        let mut v = crate::render::sample::verdict();
        v.subject = format!("cgroup:{container}");
        v.victims[0].cgroup = Some(pod.clone());
        v.summary = format!("{container} is at its limit; cgroup:{pod}: {container}/x is not, nor is {pod}");
        v.chain[1].subject = format!("cgroup:{pod}");
        v.chain[1].summary = format!("tasks of {pod} wait");
        names.decorate(&mut v, 0);
        // The pod has one container, so there is no doubt which it is.
        let w = v.workload.as_ref().unwrap();
        assert_eq!(w.short().as_deref(), Some("shop/cart-7f/app"));
        assert_eq!(v.victims[0].workload.as_ref().unwrap().short().as_deref(), Some("shop/cart-7f"));
        assert_eq!(
            v.summary,
            format!(
                "shop/cart-7f/app is at its limit; shop/cart-7f: {container}/x is not, nor is shop/cart-7f"
            )
        );
        assert_eq!(v.chain[1].summary, "tasks of shop/cart-7f wait");
        std::fs::create_dir_all(dir.path().join(format!("pods/shop_cart-7f_{UID}/sidecar"))).unwrap();
        let w = names.workload(&container, 0).unwrap();
        assert_eq!(w.container.as_deref(), Some(ID), "two containers: which is not known");
    }
}
