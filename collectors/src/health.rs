//! Streams about whystall itself: is each collector alive, are ticks on time, was anything lost.
//!
//! The runner emits `self.collector`, `self.tick`, `self.lost` and `self.problem`; `self.rule` and
//! `self.reload` are declared here and emitted by whoever runs the rules. Declarations only: nothing here measures.

use whystall_event::{Field, Stream, SubjectKind, Unit};

/// Every stream about whystall itself.
pub static STREAMS: &[Stream] = &[COLLECTOR, TICK, LOST, PROBLEM, RULE, RELOAD];

/// The state of a collector, the value of `self.collector.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum State {
    /// Its last pass was fine.
    #[default]
    Ok = 0,
    /// It works and finds nothing to collect, such as no such device.
    Nothing = 1,
    /// Its last pass failed, or it was silent for too long; it is tried again.
    Failing = 2,
    /// It panicked too often and is not tried again.
    Dead = 3,
    /// It cannot work on this host.
    Unavailable = 4,
}

impl State {
    /// The state's name for people.
    pub const fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Nothing => "nothing to collect",
            State::Failing => "failing",
            State::Dead => "dead",
            State::Unavailable => "unavailable",
        }
    }
}

/// One row a collector each ten seconds, and at once when its state changes; the subject is `device:NAME`.
pub const COLLECTOR: Stream = {
    const FIELDS: &[Field] = &[
        Field::gauge("state", Unit::None, "0 ok, 1 nothing to collect, 2 failing, 3 dead, 4 unavailable"),
        Field::gauge(
            "duration",
            Unit::Time,
            "how long the last pass took, or the last run of a streaming one",
        ),
        Field::gauge("interval", Unit::Time, "time between passes, longer than configured while backing off"),
        Field::counter("passes", Unit::Count, "passes made; batches delivered by a streaming collector"),
        Field::counter("failures", Unit::Count, "passes or runs that ended with an error"),
        Field::counter("panics", Unit::Count, "passes or runs that ended with a panic"),
        Field::counter("overruns", Unit::Count, "passes that took longer than their budget"),
        Field::counter("restarts", Unit::Count, "times it was built or started again"),
        Field::counter("problems", Unit::Count, "problems that were not fatal, such as malformed lines"),
        Field::text("error", "the last error, absent while it is fine"),
    ];
    Stream::sampled(
        "self.collector",
        "the health of each of whystall's collectors",
        &[SubjectKind::Device],
        FIELDS,
    )
};

/// Field numbers of [`COLLECTOR`].
pub mod collector {
    #![allow(missing_docs)]
    pub const STATE: usize = 0;
    pub const DURATION: usize = 1;
    pub const INTERVAL: usize = 2;
    pub const PASSES: usize = 3;
    pub const FAILURES: usize = 4;
    pub const PANICS: usize = 5;
    pub const OVERRUNS: usize = 6;
    pub const RESTARTS: usize = 7;
    pub const PROBLEMS: usize = 8;
    pub const ERROR: usize = 9;
}

/// A row where a tick was late, the machine was suspended or the wall clock was set.
pub const TICK: Stream = {
    const FIELDS: &[Field] = &[
        Field::duration(
            "late",
            "how much later than planned a tick came, where it is over half the interval",
        ),
        Field::duration("suspended", "how long the machine was suspended since the tick before"),
        Field::gauge("clock_step", Unit::Time, "how far the wall clock was set forward, or back (negative)"),
        Field::gauge("missed", Unit::Count, "ticks that were left out because of it"),
    ];
    Stream::occurrences(
        "self.tick",
        "ticks that came late, suspends and steps of the wall clock",
        &[SubjectKind::Host],
        FIELDS,
    )
};

/// Field numbers of [`TICK`].
pub mod tick {
    #![allow(missing_docs)]
    pub const LATE: usize = 0;
    pub const SUSPENDED: usize = 1;
    pub const CLOCK_STEP: usize = 2;
    pub const MISSED: usize = 3;
}

/// A row where events were dropped because their receiver was full.
pub const LOST: Stream = {
    const FIELDS: &[Field] = &[
        Field::gauge("events", Unit::Count, "the number of rows dropped since the row before"),
        Field::text("where", "where they were dropped, such as `queue: NAME` for a collector's batches"),
    ];
    Stream::occurrences(
        "self.lost",
        "events that whystall dropped because it could not keep up",
        &[SubjectKind::Host],
        FIELDS,
    )
};

/// Field numbers of [`LOST`].
pub mod lost {
    #![allow(missing_docs)]
    pub const EVENTS: usize = 0;
    pub const WHERE: usize = 1;
}

/// A row for problems of a collector that are not fatal; limited in rate, exact in count.
pub const PROBLEM: Stream = {
    const FIELDS: &[Field] = &[
        Field::text("collector", "the collector's name"),
        Field::text("what", "the latest problem"),
        Field::gauge(
            "count",
            Unit::Count,
            "problems of this collector since its row before, this one included",
        ),
    ];
    Stream::occurrences(
        "self.problem",
        "problems of collectors that are not fatal, such as malformed lines",
        &[SubjectKind::Host],
        FIELDS,
    )
};

/// Field numbers of [`PROBLEM`].
pub mod problem {
    #![allow(missing_docs)]
    pub const COLLECTOR: usize = 0;
    pub const WHAT: usize = 1;
    pub const COUNT: usize = 2;
}

/// A row where a rule misbehaved: suspended for its cost, failed at run time, left out at a reload.
pub const RULE: Stream = {
    const FIELDS: &[Field] =
        &[Field::text("rule", "the rule's id"), Field::text("what", "what it did and what became of it")];
    Stream::occurrences(
        "self.rule",
        "rules that misbehaved and were suspended or left out",
        &[SubjectKind::Host],
        FIELDS,
    )
};

/// Field numbers of [`RULE`].
pub mod rule {
    #![allow(missing_docs)]
    pub const RULE: usize = 0;
    pub const WHAT: usize = 1;
}

/// A row each tick as long as changed files are refused, so that what ran before goes on.
pub const RELOAD: Stream = {
    const FIELDS: &[Field] = &[Field::text("what", "which file was refused, and why")];
    Stream::occurrences(
        "self.reload",
        "files of rules or the config as they are now are not in force, because something in them is wrong",
        &[SubjectKind::Host],
        FIELDS,
    )
};

/// Field numbers of [`RELOAD`].
pub mod reload {
    #![allow(missing_docs)]
    pub const WHAT: usize = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_numbers_match_names() {
        let check = |s: &Stream, pairs: &[(usize, &str)]| {
            assert_eq!(s.fields.len(), pairs.len(), "{}", s.name);
            for (number, name) in pairs {
                assert_eq!(s.field_index(name), Some(*number), "{}.{name}", s.name);
            }
        };
        use collector as c;
        check(
            &COLLECTOR,
            &[
                (c::STATE, "state"),
                (c::DURATION, "duration"),
                (c::INTERVAL, "interval"),
                (c::PASSES, "passes"),
                (c::FAILURES, "failures"),
                (c::PANICS, "panics"),
                (c::OVERRUNS, "overruns"),
                (c::RESTARTS, "restarts"),
                (c::PROBLEMS, "problems"),
                (c::ERROR, "error"),
            ],
        );
        check(
            &TICK,
            &[
                (tick::LATE, "late"),
                (tick::SUSPENDED, "suspended"),
                (tick::CLOCK_STEP, "clock_step"),
                (tick::MISSED, "missed"),
            ],
        );
        check(&LOST, &[(lost::EVENTS, "events"), (lost::WHERE, "where")]);
        check(
            &PROBLEM,
            &[(problem::COLLECTOR, "collector"), (problem::WHAT, "what"), (problem::COUNT, "count")],
        );
        check(&RULE, &[(rule::RULE, "rule"), (rule::WHAT, "what")]);
        check(&RELOAD, &[(reload::WHAT, "what")]);
    }
}
