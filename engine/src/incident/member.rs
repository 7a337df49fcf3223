//! A finding as incidents see it, and which findings belong together.
//!
//! Two findings are related if the rule of one `explains` that of the other and both touch the place that the edge
//! demands, or if they are one event that one rule sees twice. Either way they must overlap in time, give or take
//! [`TOLERANCE_NS`], and neither may have ruled out what the other concluded.

use std::rc::Rc;

use whystall_event::{Subject, SubjectKind};

use crate::script::{Conclusion, Manifest, Severity, When};
use crate::verdict::{Actor, Confidence, Explained};

/// How far apart in time cause and symptom may lie: a symptom may begin so long after its cause was over, and a cause may
/// be found so long after its symptom was. An incident is resolved when nothing can join it any more.
pub(crate) const TOLERANCE_NS: u64 = 5_000_000_000;

/// A finding as incidents see it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) manifest: Rc<Manifest>,
    pub(crate) subject: Subject,
    pub(crate) started_ns: u64,
    /// When it was over.
    pub(crate) ended_ns: Option<u64>,
    pub(crate) conclusion: Conclusion,
    /// It did not end by itself: its rule is gone.
    pub(crate) withdrawn: bool,
    /// Its windows are unknown now.
    pub(crate) stale: bool,
    /// Its conditions, term by term.
    pub(crate) explained: Option<Rc<Explained>>,
    places: Vec<Subject>,
}

impl Member {
    pub(crate) fn new(
        manifest: Rc<Manifest>,
        subject: Subject,
        started_ns: u64,
        conclusion: Conclusion,
        explained: Option<Rc<Explained>>,
    ) -> Member {
        let places = places(&subject, &conclusion);
        Member {
            manifest,
            subject,
            started_ns,
            ended_ns: None,
            conclusion,
            withdrawn: false,
            stale: false,
            explained,
            places,
        }
    }

    pub(crate) fn conclude(&mut self, conclusion: Conclusion, explained: Option<Rc<Explained>>) {
        self.places = places(&self.subject, &conclusion);
        self.conclusion = conclusion;
        self.explained = explained;
    }

    pub(crate) fn is(&self, rule: &str, subject: &Subject) -> bool {
        self.manifest.id == rule && self.subject == *subject
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ended_ns.is_none()
    }

    /// An order that does not depend on the order in which rules are loaded or judged.
    pub(crate) fn order(&self) -> (u64, &str, &Subject) {
        (self.started_ns, &self.manifest.id, &self.subject)
    }

    pub(crate) fn severity(&self) -> Severity {
        self.conclusion.severity.unwrap_or(self.manifest.severity)
    }

    /// How sure the conclusion may be said to be: never more than the rule says. `high` needs a figure that is known and
    /// an alternative that is ruled out (`ruled_out` says whether one is left), `medium` a figure; and while the windows
    /// are unknown it is one step less.
    pub(crate) fn confidence(&self, ruled_out: bool) -> Confidence {
        let figure = self.conclusion.evidence.iter().any(|e| e.value.is_some());
        let most = match (figure, ruled_out) {
            (true, true) => Confidence::High,
            (true, false) => Confidence::Medium,
            (false, _) => Confidence::Low,
        };
        let sure = self.conclusion.confidence.min(most);
        match sure {
            Confidence::High if self.stale => Confidence::Medium,
            _ if self.stale => Confidence::Low,
            sure => sure,
        }
    }

    pub(crate) fn rules_out(&self, cause: &str) -> bool {
        self.conclusion.ruled_out.iter().any(|r| r.cause == cause)
    }

    /// Whether one of both says that it was not what the other concludes.
    fn contradicts(&self, other: &Member) -> bool {
        let (a, b) = (&self.conclusion.cause, &other.conclusion.cause);
        a != b && (self.rules_out(b) || other.rules_out(a))
    }

    fn overlaps(&self, other: &Member) -> bool {
        let before = |a: &Member, b: &Member| {
            a.ended_ns.is_some_and(|end| end.saturating_add(TOLERANCE_NS) < b.started_ns)
        };
        !before(self, other) && !before(other, self)
    }

    fn touch(&self, other: &Member, when: When) -> bool {
        let pairs = |kind: SubjectKind, same: fn(&Subject, &Subject) -> bool| {
            self.places.iter().filter(|p| p.kind() == kind).any(|a| other.places.iter().any(|b| same(a, b)))
        };
        match when {
            When::Host => true,
            When::SameCpu => pairs(SubjectKind::Cpu, |a, b| a == b),
            When::SameTask => pairs(SubjectKind::Task, |a, b| a == b),
            // The root cgroup contains everything, so it relates nothing.
            When::SameCgroup => pairs(SubjectKind::Cgroup, |a, b| {
                let root = |s: &Subject| s.parent().is_none();
                b.kind() == SubjectKind::Cgroup && !root(a) && !root(b) && (a.contains(b) || b.contains(a))
            }),
        }
    }

    /// Whether this finding explains `other`, at whatever time.
    pub(crate) fn explains(&self, other: &Member) -> bool {
        self.manifest.explains.iter().any(|e| {
            e.rule == other.manifest.id
                && (e.causes.is_empty() || e.causes.contains(&other.conclusion.cause))
                && (e.by.is_empty() || e.by.contains(&self.conclusion.cause))
                && self.touch(other, e.when)
        }) && !self.contradicts(other)
    }

    /// Whether two findings of one rule are one event seen twice.
    fn same_event(&self, other: &Member) -> bool {
        if self.manifest.id != other.manifest.id {
            return false;
        }
        let together = match (&self.subject, &other.subject) {
            (a, b) if a == b => return true,
            (Subject::Host, _) | (_, Subject::Host) => true,
            // A CPU is no neighbour of another: what they share is the cause, and who did it as far as that is known.
            (Subject::Cpu(_), Subject::Cpu(_)) => {
                self.conclusion.cause == other.conclusion.cause && self.shares_culprit(other)
            }
            _ => {
                self.touch(other, When::SameCgroup)
                    || self.touch(other, When::SameTask)
                    || self.touch(other, When::SameCpu)
            }
        };
        together && !self.contradicts(other)
    }

    fn shares_culprit(&self, other: &Member) -> bool {
        let (a, b) = (&self.conclusion.culprits, &other.conclusion.culprits);
        let same = |x: &Actor, y: &Actor| match (x.pid, y.pid) {
            (Some(p), Some(q)) => p == q,
            _ if x.comm.is_some() || y.comm.is_some() => {
                x.comm == y.comm && (x.cgroup == y.cgroup || x.cgroup.is_none() || y.cgroup.is_none())
            }
            _ if x.cgroup.is_some() || y.cgroup.is_some() => x.cgroup == y.cgroup,
            _ => x.name == y.name,
        };
        a.is_empty() || b.is_empty() || a.iter().any(|x| b.iter().any(|y| same(x, y)))
    }

    pub(crate) fn related(&self, other: &Member) -> bool {
        self.overlaps(other) && (self.explains(other) || other.explains(self) || self.same_event(other))
    }
}

/// The subjects a finding happens at: its own and those its conclusion names.
fn places(subject: &Subject, conclusion: &Conclusion) -> Vec<Subject> {
    let mut out = vec![subject.clone()];
    out.extend(conclusion.touches.iter().filter_map(|t| t.parse().ok()));
    for a in conclusion.culprits.iter().chain(&conclusion.victims) {
        out.extend(a.pid.map(Subject::Task));
        out.extend(a.cgroup.as_deref().filter(|c| c.starts_with('/')).map(Subject::cgroup));
    }
    out.sort();
    out.dedup();
    out
}
