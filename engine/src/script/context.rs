//! `ctx`: what `verdict` knows beside its windows — the subject, the host, the heaviest subjects, recent events.

use std::cell::RefCell;
use std::rc::Rc;

use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, Map};
use whystall_event::{Subject, SubjectKind, workload};

use super::manifest::{At, Manifest};
use crate::data::{Data, RecentValue};
use crate::window::WindowId;

/// Most items that `top` and `events` give.
const MAX_ITEMS: usize = 32;
/// Bytes of all their texts, below what the sandbox lets a value have: otherwise whoever makes a control group with a
/// path of 4096 bytes could break the verdict about it.
const MAX_TEXTS: usize = 24 << 10;

/// `ctx` of one call.
#[derive(Debug, Clone)]
pub(crate) struct Ctx {
    pub(crate) data: Rc<RefCell<Data>>,
    pub(crate) manifest: Rc<Manifest>,
    pub(crate) ids: Rc<Vec<Option<WindowId>>>,
    pub(crate) subject: Subject,
    pub(crate) now_ns: u64,
}

/// Adds `ctx` to an engine.
pub(crate) fn register(e: &mut Engine) {
    e.register_type_with_name::<Ctx>("ctx");
    e.register_get("subject", |c: &mut Ctx| c.subject.to_string());
    e.register_get("name", |c: &mut Ctx| c.subject.name());
    e.register_get("path", |c: &mut Ctx| c.path());
    e.register_get("parent", |c: &mut Ctx| c.subject.parent().map_or_else(String::new, |p| p.name()));
    e.register_get("kind", |c: &mut Ctx| c.subject.kind().name().to_string());
    e.register_get("unit", |c: &mut Ctx| workload::owner(&c.path()).unit.unwrap_or_default());
    e.register_get("pod_uid", |c: &mut Ctx| workload::owner(&c.path()).pod_uid.unwrap_or_default());
    e.register_get("container_id", |c: &mut Ctx| workload::owner(&c.path()).container_id.unwrap_or_default());
    e.register_get("host", |c: &mut Ctx| c.data.borrow().facts.host.clone());
    e.register_get("kernel", |c: &mut Ctx| c.data.borrow().facts.kernel.clone());
    e.register_get("cgroup_v2", |c: &mut Ctx| c.data.borrow().facts.memory_cgroup_v2);
    e.register_get("cpus", |c: &mut Ctx| f64::from(c.data.borrow().facts.cpus));
    e.register_fn("cgroup_file", |c: &mut Ctx, file: ImmutableString| c.cgroup_file(&file));
    e.register_fn("attr", |c: &mut Ctx, field: ImmutableString| c.attr(&field));
    e.register_fn("top", |c: &mut Ctx, what: ImmutableString, n: i64| c.top(&what, n));
    e.register_fn("events", |c: &mut Ctx, stream: ImmutableString, n: i64| c.events(&stream, n));
}

impl Ctx {
    /// The subject's cgroup path, or the empty text.
    fn path(&self) -> String {
        match &self.subject {
            Subject::Cgroup(p) => p.to_string(),
            _ => String::new(),
        }
    }

    /// Whether both are cgroups and the other is below this one.
    fn is_above(&self, other: &Subject) -> bool {
        match (&self.subject, other) {
            (Subject::Cgroup(above), Subject::Cgroup(path)) => {
                path.strip_prefix(above.as_ref()).is_some_and(|rest| rest.starts_with('/'))
            }
            _ => false,
        }
    }

    /// The full path of a control file of the subject's memory cgroup.
    fn cgroup_file(&self, file: &str) -> String {
        let data = self.data.borrow();
        let path = self.path();
        format!("{}{}/{file}", data.facts.memory_cgroup_mount, if path == "/" { "" } else { &path })
    }

    /// The newest text of a sampled stream about this subject, else about the host.
    fn attr(&self, full: &str) -> String {
        let Some((stream, field)) = whystall_event::split_field(full) else { return String::new() };
        let data = self.data.borrow();
        [&self.subject, &Subject::Host]
            .into_iter()
            .find_map(|s| data.windows.text(stream, field, s))
            .map_or_else(String::new, |t| t.to_string())
    }

    /// The heaviest subjects by one of the rule's windows, named by the window or by its field.
    fn top(&self, what: &str, n: i64) -> Result<Array, Box<EvalAltResult>> {
        let n = usize::try_from(n).unwrap_or(0).min(MAX_ITEMS);
        let fits = |full: bool| {
            self.manifest
                .windows
                .iter()
                .position(|d| if full { what == format!("{}.{}", d.stream, d.field) } else { what == d.name })
        };
        let Some(i) = fits(false).or_else(|| fits(true)) else {
            return Err(format!("`top` knows no window or windowed field `{what}` of this rule").into());
        };
        let decl = &self.manifest.windows[i];
        let kind = match decl.at {
            At::Across(kind, _) => kind,
            At::Host => SubjectKind::Host,
            At::Cpu(_) => SubjectKind::Cpu,
            At::Own | At::Parent => self.subject.kind(),
        };
        let Some(id) = self.ids.get(i).copied().flatten() else { return Ok(Array::new()) };
        let data = self.data.borrow();
        let (table, column) = (data.windows.table(kind), data.windows.column(id));
        let mut rows: Vec<(f64, &Subject)> = table
            .rows()
            .filter_map(|(row, s)| Some((*column.get(row as usize)?, s)))
            .filter(|(x, _)| *x > 0.0)
            .collect();
        let total: f64 = rows.iter().map(|(x, _)| x).sum();
        // Equal values are ordered by subject, so that replays agree.
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let scale = decl.shape.scale();
        Ok(fitting(rows.into_iter().take(n).map(|(x, s)| {
            let mut m = describe(s);
            for field in &decl.texts {
                let known = data.windows.text(&decl.stream, field, s);
                if known.is_some() || !m.contains_key(field.as_ref()) {
                    m.insert(field.as_ref().into(), known.map_or("", |t| t.as_ref()).into());
                }
            }
            m.insert("value".into(), (x / scale).into());
            m.insert("unit".into(), decl.shape.shown().into());
            m.insert("text".into(), decl.shape.text(x).into());
            m.insert("share".into(), (x / total).into());
            m
        })))
    }

    /// The newest events of a stream about this subject (for the host: about anything; for a cgroup: also about those
    /// below it), newest first.
    fn events(&self, stream: &str, n: i64) -> Array {
        let n = usize::try_from(n).unwrap_or(0).min(MAX_ITEMS);
        let data = self.data.borrow();
        let found = data
            .recent
            .newest(stream)
            .filter(|e| {
                self.subject == Subject::Host || e.subject == self.subject || self.is_above(&e.subject)
            })
            .take(n);
        fitting(found.map(|e| {
            let mut m = describe(&e.subject);
            m.insert("age_ms".into(), (self.now_ns.saturating_sub(e.boot_ns) as f64 / 1e6).into());
            for (name, value) in e.values() {
                let v = match value {
                    RecentValue::Text(t) => t.to_string().into(),
                    RecentValue::Number(x) => x.into(),
                    RecentValue::Absent => Dynamic::UNIT,
                };
                m.insert(name.into(), v);
            }
            m
        }))
    }
}

/// The first items, as many as there is room for.
fn fitting(items: impl Iterator<Item = Map>) -> Array {
    let mut bytes = 0;
    let fits = |m: &Map| {
        let texts = m.values().filter_map(|v| v.read_lock::<ImmutableString>().map(|s| s.len()));
        bytes += texts.sum::<usize>();
        bytes <= MAX_TEXTS
    };
    items.take_while(fits).map(Dynamic::from_map).collect()
}

/// The keys every item has, so that scripts can read them without a check; unknown ones are empty.
fn describe(s: &Subject) -> Map {
    let mut m = Map::new();
    m.insert("kind".into(), s.kind().name().into());
    m.insert("subject".into(), s.to_string().into());
    m.insert("name".into(), s.name().into());
    m.insert("comm".into(), "".into());
    m.insert("cgroup".into(), if let Subject::Cgroup(p) = s { p.to_string() } else { String::new() }.into());
    if let Subject::Task(pid) = s {
        m.insert("pid".into(), i64::from(*pid).into());
    }
    m
}
