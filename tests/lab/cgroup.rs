//! Control groups of the lab, the same for cgroup v1 and v2: which controllers exist, and groups with limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use crate::guard::{Guard, Reaper, Thing};

/// Where a controller's tree is mounted, and in which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) v2: bool,
}

/// The trees of the controllers that the lab uses.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    trees: BTreeMap<&'static str, Tree>,
}

/// `cpuacct` is only for v1, where a container has it beside `cpu`.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "cpuacct"];

impl Layout {
    /// Reads the mounts. In a v2 tree a controller counts only if the root offers it.
    pub(crate) fn detect() -> Layout {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Layout::parse(&mounts, |root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default())
    }

    fn parse(mounts: &str, controllers_of: impl Fn(&Path) -> String) -> Layout {
        let mut layout = Layout::default();
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(root), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let root = PathBuf::from(root);
            let offered = match kind {
                "cgroup" => options.replace(',', " "),
                "cgroup2" => controllers_of(&root),
                _ => continue,
            };
            for name in CONTROLLERS {
                if offered.split_whitespace().any(|o| o == name) {
                    layout.trees.insert(name, Tree { root: root.clone(), v2: kind == "cgroup2" });
                }
            }
        }
        layout
    }

    /// The tree of one controller.
    pub(crate) fn tree(&self, controller: &str) -> Result<&Tree> {
        self.trees.get(controller).ok_or_else(|| anyhow!("no `{controller}` cgroup controller here"))
    }

    /// The distinct directories at which all controllers' trees are rooted.
    fn roots(&self) -> Vec<&Tree> {
        let mut roots: Vec<&Tree> = Vec::new();
        for tree in self.trees.values().filter(|t| t.root.is_dir()) {
            if !roots.contains(&tree) {
                roots.push(tree);
            }
        }
        roots
    }
}

/// How often a CPU quota held the group back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throttled {
    pub(crate) periods: u64,
    pub(crate) throttled: u64,
    pub(crate) ms: u64,
}

/// A group of the lab's, in every tree under the same path, as a container has it. Removed on drop.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// Its path from the roots, beginning with a slash: what a verdict's subject says after `cgroup:`.
    pub(crate) path: String,
    dirs: Vec<PathBuf>,
    memory: Option<(PathBuf, bool)>,
    cpu: Option<(PathBuf, bool)>,
    guards: Vec<Guard>,
}

impl Cgroup {
    /// Makes `/name` in every tree.
    pub(crate) fn create(layout: &Layout, reaper: &Arc<Reaper>, name: &str) -> Result<Cgroup> {
        let mut made = Cgroup {
            path: format!("/{name}"),
            dirs: Vec::new(),
            memory: None,
            cpu: None,
            guards: Vec::new(),
        };
        for tree in layout.roots() {
            if tree.v2 {
                enable_controllers(&tree.root);
            }
            let dir = tree.root.join(name);
            made.guards.push(Guard::new(reaper, Thing::Cgroup(dir.clone()))?);
            fs::create_dir(&dir).with_context(|| format!("cannot make cgroup {dir:?}"))?;
            made.dirs.push(dir);
        }
        let of = |c: &str| layout.tree(c).ok().map(|t| (t.root.join(name), t.v2));
        (made.memory, made.cpu) = (of("memory"), of("cpu"));
        Ok(made)
    }

    /// Gives up the handle but not the group: its guards, to be kept elsewhere.
    pub(crate) fn into_guards(self) -> Vec<Guard> {
        self.guards
    }

    /// The `cgroup.procs` files that a process writes itself to.
    pub(crate) fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|d| d.join("cgroup.procs")).collect()
    }

    /// Makes a child group in every tree, whose path is below this one's; this group's guards remove it.
    pub(crate) fn child(&self, name: &str) -> Result<Cgroup> {
        let mut child = Cgroup {
            path: format!("{}/{name}", self.path),
            dirs: Vec::new(),
            memory: None,
            cpu: None,
            guards: Vec::new(),
        };
        for dir in &self.dirs {
            if dir.join("cgroup.subtree_control").exists() {
                enable_controllers(dir);
            }
            let below = dir.join(name);
            fs::create_dir(&below).with_context(|| format!("cannot make cgroup {below:?}"))?;
            child.dirs.push(below);
        }
        let of = |of: &Option<(PathBuf, bool)>| of.as_ref().map(|(dir, v2)| (dir.join(name), *v2));
        (child.memory, child.cpu) = (of(&self.memory), of(&self.cpu));
        Ok(child)
    }

    /// Makes a child group in the memory tree only; the parent's guard removes it if the lab does not.
    pub(crate) fn memory_child(&self, name: &str) -> Result<PathBuf> {
        let (dir, v2) = self.memory_dir()?;
        if v2 {
            enable_controllers(dir);
        }
        let child = dir.join(name);
        fs::create_dir(&child).with_context(|| format!("cannot make cgroup {child:?}"))?;
        Ok(child)
    }

    /// Its directory in the memory tree, ready to have children.
    pub(crate) fn memory_path(&self) -> Result<PathBuf> {
        let (dir, v2) = self.memory_dir()?;
        if v2 {
            enable_controllers(dir);
        }
        Ok(dir.to_path_buf())
    }

    fn memory_dir(&self) -> Result<(&Path, bool)> {
        self.memory.as_ref().map(|(p, v2)| (p.as_path(), *v2)).context("no memory controller")
    }

    fn cpu_dir(&self) -> Result<(&Path, bool)> {
        self.cpu.as_ref().map(|(p, v2)| (p.as_path(), *v2)).context("no cpu controller")
    }

    /// Limits memory to `mib` MiB, and keeps anonymous memory out of swap, which would soften the limit.
    pub(crate) fn limit_memory(&self, mib: u64) -> Result<()> {
        let (dir, v2) = self.memory_dir()?;
        let bytes = (mib << 20).to_string();
        if v2 {
            write(&dir.join("memory.max"), &bytes)?;
            // Absent where swap accounting is off.
            let _ = write(&dir.join("memory.swap.max"), "0");
        } else {
            write(&dir.join("memory.limit_in_bytes"), &bytes)?;
            let _ = write(&dir.join("memory.swappiness"), "0");
        }
        Ok(())
    }

    /// Makes the kernel slow the group down above `mib` MiB; v2 only.
    pub(crate) fn throttle_memory(&self, mib: u64) -> Result<()> {
        write(&self.memory_dir()?.0.join("memory.high"), &(mib << 20).to_string())
    }

    /// How often that happened: `high` of `memory.events`.
    pub(crate) fn throttles(&self) -> Result<u64> {
        keyed(&self.memory_dir()?.0.join("memory.events"), "high")
    }

    /// How often the group ran into its limit: v1 `memory.failcnt`, v2 `max` of `memory.events`.
    pub(crate) fn limit_hits(&self) -> Result<u64> {
        let (dir, v2) = self.memory_dir()?;
        if v2 { keyed(&dir.join("memory.events"), "max") } else { single(&dir.join("memory.failcnt")) }
    }

    /// How many of the group's tasks the OOM killer killed.
    pub(crate) fn oom_kills(&self) -> Result<u64> {
        let (dir, v2) = self.memory_dir()?;
        keyed(&dir.join(if v2 { "memory.events" } else { "memory.oom_control" }), "oom_kill")
    }

    /// Bytes of page cache charged to the group and its descendants, dying ones included on v1.
    pub(crate) fn cache_bytes(&self) -> Result<u64> {
        let (dir, v2) = self.memory_dir()?;
        keyed(&dir.join("memory.stat"), if v2 { "file" } else { "total_cache" })
    }

    /// Reclaims all page cache as an operator would: v1 `memory.force_empty`, v2 `memory.reclaim`.
    pub(crate) fn reclaim(&self, mib: u64) -> Result<()> {
        let (dir, v2) = self.memory_dir()?;
        if v2 {
            // EAGAIN means that less than asked for could be reclaimed.
            let _ = fs::write(dir.join("memory.reclaim"), format!("{mib}M"));
            Ok(())
        } else {
            write(&dir.join("memory.force_empty"), "0")
        }
    }

    /// Allows `quota_us` microseconds of CPU time in each period of `period_us`.
    pub(crate) fn limit_cpu(&self, quota_us: u64, period_us: u64) -> Result<()> {
        let (dir, v2) = self.cpu_dir()?;
        if v2 {
            write(&dir.join("cpu.max"), &format!("{quota_us} {period_us}"))
        } else {
            write(&dir.join("cpu.cfs_period_us"), &period_us.to_string())?;
            write(&dir.join("cpu.cfs_quota_us"), &quota_us.to_string())
        }
    }

    /// What the quota did so far, from `cpu.stat`.
    pub(crate) fn throttled(&self) -> Result<Throttled> {
        let (dir, v2) = self.cpu_dir()?;
        let stat = dir.join("cpu.stat");
        let ms = if v2 {
            keyed(&stat, "throttled_usec")? / 1000
        } else {
            keyed(&stat, "throttled_time")? / 1_000_000
        };
        Ok(Throttled { periods: keyed(&stat, "nr_periods")?, throttled: keyed(&stat, "nr_throttled")?, ms })
    }

    /// Memory cgroups that were removed but live on. v1: all known to the kernel less the directories, host-wide; v2:
    /// the dying descendants of this group.
    pub(crate) fn dying(&self) -> Result<u64> {
        let (dir, v2) = self.memory_dir()?;
        if v2 {
            return keyed(&dir.join("cgroup.stat"), "nr_dying_descendants");
        }
        let root = dir.parent().context("the memory tree has no root")?;
        let table = fs::read_to_string("/proc/cgroups").context("/proc/cgroups")?;
        let known = table
            .lines()
            .find_map(|l| l.strip_prefix("memory\t"))
            .and_then(|l| l.split('\t').nth(1)?.parse::<u64>().ok())
            .context("/proc/cgroups has no memory row")?;
        Ok(known.saturating_sub(directories(root)))
    }
}

fn directories(root: &Path) -> u64 {
    let below = fs::read_dir(root).into_iter().flatten().flatten();
    1 + below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| directories(&e.path())).sum::<u64>()
}

/// On v2 a group's children get a controller only if the group hands it down; a refusal shows at first use.
fn enable_controllers(dir: &Path) {
    for controller in ["+memory", "+cpu"] {
        let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{text}` to {path:?}"))
}

fn single(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("{path:?}"))?;
    text.trim().parse().with_context(|| format!("{path:?} holds no number"))
}

fn keyed(path: &Path, key: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("{path:?}"))?;
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .with_context(|| format!("{path:?} has no `{key}`"))
}

/// The layout is read right from the three ways in which distributions mount cgroups. Run as a trial of its own.
pub(crate) fn self_test() -> Result<()> {
    let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
              cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
              cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
    let tree = |l: &Layout, c| l.tree(c).cloned().map_err(|e| e.to_string());
    let of = |root: &str, v2| Ok(Tree { root: root.into(), v2 });
    let (a, b) = (Layout::parse(v1, |_| String::new()), Layout::parse(v2, |_| "cpu io memory\n".into()));
    anyhow::ensure!(tree(&a, "memory") == of("/sys/fs/cgroup/memory", false), "v1 memory: {a:?}");
    anyhow::ensure!(tree(&a, "cpuacct") == tree(&a, "cpu"), "co-mounted: {a:?}");
    anyhow::ensure!(tree(&b, "memory") == of("/sys/fs/cgroup", true), "v2: {b:?}");
    anyhow::ensure!(tree(&b, "cpuacct").is_err(), "v2 has no cpuacct: {b:?}");
    anyhow::ensure!(tree(&Layout::parse("", |_| String::new()), "memory").is_err(), "nothing mounted");
    Ok(())
}
