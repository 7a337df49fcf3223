//! Judges one rule within a tick: where its windows' numbers are, and for which subjects its conditions hold.

use std::rc::Rc;

use whystall_event::{Subject, SubjectKind};

use crate::extents::Prospects;
use crate::script::{At, Judged, Numbers, Program, Rule, Sandbox, Scratch, Source, Take, WindowDecl};
use crate::subjects::SubjectTable;
use crate::window::{After, WindowId, WindowSpec, Windows};

/// Operations that all calls into one rule's script may use in a tick.
pub(crate) const SCRIPT_OPERATIONS_A_TICK: u64 = 2_000_000;

/// One rule's evaluation within a tick.
pub(crate) struct Judge<'a> {
    rule: &'a Rc<Rule>,
    sandbox: &'a Rc<Sandbox>,
    sources: &'a [Source<'a>],
    scratch: &'a mut Scratch,
    /// The sandbox's count when the tick began.
    began: u64,
    pub(crate) failed: Option<String>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        rule: &'a Rc<Rule>,
        sandbox: &'a Rc<Sandbox>,
        sources: &'a [Source<'a>],
        scratch: &'a mut Scratch,
    ) -> Judge<'a> {
        Judge { rule, sandbox, sources, scratch, began: sandbox.operations(), failed: None }
    }

    /// Operations that the rule's scripts have used in this tick.
    pub(crate) fn spent(&self) -> u64 {
        self.sandbox.operations() - self.began
    }

    pub(crate) fn lowered(&mut self, p: &Program, row: u32) -> Judged {
        Judged::lane(p.run(self.sources, row as usize, 1, self.scratch)[0])
    }

    pub(crate) fn enter(&mut self, lowered: Option<&Program>, row: u32, subject: &Subject) -> Judged {
        match lowered {
            Some(p) => self.lowered(p, row),
            None => self.script("enter", row, subject),
        }
    }

    pub(crate) fn script(&mut self, name: &str, row: u32, subject: &Subject) -> Judged {
        if self.failed.is_some() {
            return Judged::Unknown;
        }
        if self.spent() > SCRIPT_OPERATIONS_A_TICK {
            self.failed =
                Some("its scripts used more operations than a tick may cost; give it a `wake` window".into());
            return Judged::Unknown;
        }
        let numbers = self.sources.iter().map(|s| s.at(row as usize)).collect();
        let judged = self.rule.judge(self.sandbox, name, subject, numbers);
        if let Judged::Failed(why) = &judged {
            self.failed = Some(format!("`{name}` failed: {why}"));
        }
        judged
    }

    /// Rows whose `enter` is true and whose window `wake` is not zero.
    pub(crate) fn candidates(
        &mut self,
        enter: Option<&Program>,
        wake: Option<Source<'_>>,
        prospects: &Prospects<'_>,
        table: &SubjectTable,
    ) -> Vec<u32> {
        let mut out = Vec::new();
        let awake = |row: usize| wake.is_none_or(|w| w.at(row).value.abs() > 0.0);
        let mut from = 0;
        while let Some(rows) = prospects.next(from, table.len()) {
            from = rows.end;
            match enter {
                Some(p) => {
                    let result = p.run(self.sources, rows.start, rows.len(), self.scratch);
                    out.extend(
                        rows.zip(result).filter(|(i, x)| **x == 1.0 && awake(*i)).map(|(i, _)| i as u32),
                    );
                }
                None => {
                    for row in rows {
                        if awake(row)
                            && let Some(subject) = table.subject(row as u32)
                            && self.script("enter", row as u32, subject) == Judged::True
                        {
                            out.push(row as u32);
                        }
                    }
                }
            }
        }
        out.retain(|r| table.subject(*r).is_some() && !table.is_gone(*r));
        out
    }
}

/// Where a declared window's numbers are for subjects of this kind.
pub(crate) fn source<'a>(
    windows: &'a Windows,
    at: At,
    scale: f64,
    id: Option<WindowId>,
    parents: &'a [u32],
    cpus: &'a [u32],
) -> Source<'a> {
    let Some(id) = id else { return Source::Scalar(Numbers::UNKNOWN) };
    let (value, dev, now) = (windows.column(id), windows.deviation(id), windows.current(id));
    match at {
        At::Own => Source::Columns { value, dev, now },
        At::Host => Source::Scalar(Source::Columns { value, dev, now }.at(0)),
        At::Parent => Source::Gather { value, rows: parents },
        At::Cpu(_) => Source::Gather { value, rows: cpus },
        At::Across(_, take) => {
            Source::Scalar(Numbers { value: reduce(value, take, scale), ..Numbers::UNKNOWN })
        }
    }
}

/// Takes many subjects' values together; those unknown do not count, and none at all is unknown.
fn reduce(values: &[f64], take: Take, scale: f64) -> f64 {
    let (mut n, mut sum, mut max, mut over) = (0u64, 0.0, f64::NEG_INFINITY, 0u64);
    let line = match take {
        Take::CountOver(x) | Take::ShareOver(x) => x * scale,
        Take::Sum | Take::Max => f64::INFINITY,
    };
    for x in values.iter().copied().filter(|x| !x.is_nan()) {
        n += 1;
        sum += x;
        max = max.max(x);
        over += u64::from(x > line);
    }
    match take {
        _ if n == 0 => f64::NAN,
        Take::Sum => sum,
        Take::Max => max,
        Take::CountOver(_) => over as f64,
        Take::ShareOver(_) => over as f64 / n as f64,
    }
}

/// For each row of a kind's table the row of the CPU whose number the window `by` has there; none is `u32::MAX`.
pub(crate) fn cpu_rows(windows: &Windows, by: Option<WindowId>) -> Vec<u32> {
    let cpus = windows.table(SubjectKind::Cpu);
    let row = |x: &f64| {
        let n = (*x >= 0.0 && *x <= f64::from(u32::MAX)).then_some(*x as u32);
        n.and_then(|n| cpus.row(&Subject::Cpu(n))).unwrap_or(u32::MAX)
    };
    by.map_or_else(Vec::new, |id| windows.column(id).iter().map(row).collect())
}

/// Declares a rule's windows for subjects of `kind`; those whose stream is about other kinds have none.
pub(crate) fn declare(
    windows: &mut Windows,
    decls: &[WindowDecl],
    kind: SubjectKind,
) -> Vec<Option<WindowId>> {
    let kind_of = |d: &WindowDecl| match d.at {
        At::Own => kind,
        At::Host => SubjectKind::Host,
        At::Parent => SubjectKind::Cgroup,
        At::Cpu(_) => SubjectKind::Cpu,
        At::Across(k, _) => k,
    };
    let mut one = |d: &WindowDecl, after: Option<After>| {
        let kind = kind_of(d);
        d.kinds.contains(&kind).then(|| {
            windows.declare(&WindowSpec {
                stream: d.stream.clone(),
                field: d.field.clone(),
                kind,
                calc: d.calc,
                over_ns: d.over_ns,
                coverage: d.coverage,
                filter: d.filter.clone(),
                after,
            })
        })
    };
    // Those that come after others need these to be declared.
    let mut ids: Vec<Option<WindowId>> =
        decls.iter().map(|d| if d.after.is_some() { None } else { one(d, None) }).collect();
    for (i, d) in decls.iter().enumerate() {
        if let Some((other, within_ns)) = d.after
            && let Some(window) = ids[other]
        {
            let of_host = kind_of(&decls[other]) != kind_of(d);
            ids[i] = one(d, Some(After { window, within_ns, of_host }));
        }
    }
    ids
}
