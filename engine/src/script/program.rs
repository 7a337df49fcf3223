//! A lowered condition: a small stack program over columns of windows, 256 subjects at a time.
//!
//! Every lane is an `f64`; booleans are 0 and 1, and **NaN is unknown**. The semantics are those of the interpreter with
//! readings of unknown windows ending the evaluation as unknown: `&&` and `||` look at their right side only if the
//! left does not decide, arithmetic and comparison of unknown are unknown, and a `let` of unknown is unknown.

/// Subjects evaluated together.
pub(crate) const LANES: usize = 256;

/// What a script reads of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prop {
    /// In the shown unit.
    Value,
    Ns,
    Us,
    Ms,
    S,
    Pct,
    Kib,
    Mib,
    Gib,
    /// Baseline: standard deviation, in the shown unit.
    Dev,
    /// Baseline: how many deviations the newest tick lies above the mean.
    Sigma,
    /// Baseline or ewma: the newest tick's own value, in the shown unit.
    Now,
    /// 1 if known.
    Known,
    /// After another window: 1 if nothing came within the span.
    Overdue,
}

impl Prop {
    pub(crate) const ALL: [(&'static str, Prop); 15] = [
        ("value", Prop::Value),
        ("ns", Prop::Ns),
        ("us", Prop::Us),
        ("ms", Prop::Ms),
        ("s", Prop::S),
        ("pct", Prop::Pct),
        ("kib", Prop::Kib),
        ("mib", Prop::Mib),
        ("gib", Prop::Gib),
        ("mean", Prop::Value),
        ("dev", Prop::Dev),
        ("sigma", Prop::Sigma),
        ("now", Prop::Now),
        ("known", Prop::Known),
        ("overdue", Prop::Overdue),
    ];

    pub(crate) fn from_name(name: &str) -> Option<Prop> {
        Prop::ALL.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
    }
}

/// One window's numbers for one subject, in inside units; NaN is unknown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) value: f64,
    pub(crate) dev: f64,
    pub(crate) now: f64,
}

impl Numbers {
    pub(crate) const UNKNOWN: Numbers = Numbers { value: f64::NAN, dev: f64::NAN, now: f64::NAN };

    /// The one place that says what a property is; interpreter and lowered programs both use it, so that they agree to
    /// the last bit. `scale` is the shown unit's.
    #[inline(always)]
    pub(crate) fn get(&self, prop: Prop, scale: f64) -> f64 {
        match prop {
            Prop::Value => self.value / scale,
            Prop::Ns => self.value,
            Prop::Us => self.value / 1e3,
            Prop::Ms => self.value / 1e6,
            Prop::S => self.value / 1e9,
            Prop::Pct => self.value * 100.0,
            Prop::Kib => self.value / 1024.0,
            Prop::Mib => self.value / 1_048_576.0,
            Prop::Gib => self.value / 1_073_741_824.0,
            Prop::Dev => self.dev / scale,
            // A series that never varied has no scale to be measured by.
            Prop::Sigma if self.dev > 0.0 => (self.now - self.value) / self.dev,
            Prop::Sigma => f64::NAN,
            Prop::Now => self.now / scale,
            Prop::Overdue => self.now,
            Prop::Known => f64::from(!self.value.is_nan()),
        }
    }
}

/// Where a program's window finds its numbers for the subjects of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Columns with the same rows as the subjects judged; `dev` and `now` may be empty.
    Columns { value: &'a [f64], dev: &'a [f64], now: &'a [f64] },
    /// One value for all.
    Scalar(Numbers),
    /// Through another row: `rows[i]` is the row of subject i's parent, `u32::MAX` for none.
    Gather { value: &'a [f64], rows: &'a [u32] },
}

impl Source<'_> {
    /// The numbers of one row.
    pub(crate) fn at(&self, row: usize) -> Numbers {
        let nth = |c: &[f64], i: usize| c.get(i).copied().unwrap_or(f64::NAN);
        match *self {
            Source::Columns { value, dev, now } => {
                Numbers { value: nth(value, row), dev: nth(dev, row), now: nth(now, row) }
            }
            Source::Scalar(n) => n,
            Source::Gather { value, rows } => {
                let parent = rows.get(row).map_or(usize::MAX, |r| *r as usize);
                Numbers { value: nth(value, parent), ..Numbers::UNKNOWN }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bin {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Gt,
    Ge,
    Lt,
    Le,
    Eq,
    Ne,
    And,
    Or,
    /// Left if known, else right.
    OrElse,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Op {
    Const(f64),
    Read {
        window: u16,
        prop: Prop,
        scale: f64,
    },
    Slot(u16),
    Set(u16),
    Neg,
    Not,
    Abs,
    Bin(Bin),
    /// Top with a constant on the right: saves filling a lane vector.
    BinConst(Bin, f64),
    /// Pops else, then, condition; pushes the chosen.
    Select,
    /// Unknown where the slot is unknown.
    MaskBy(u16),
}

/// A compiled condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub(crate) code: Vec<Op>,
    pub(crate) slots: usize,
    pub(crate) depth: usize,
}

/// Working memory, reused between programs and ticks.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    stack: Vec<[f64; LANES]>,
    slots: Vec<[f64; LANES]>,
}

#[inline(always)]
fn apply(op: Bin, a: f64, b: f64) -> f64 {
    // A sum of two choices between constants, because a nested choice is not vectorised.
    let known = |x: bool| f64::from(x) + if a.is_nan() | b.is_nan() { f64::NAN } else { 0.0 };
    match op {
        Bin::Add => a + b,
        Bin::Sub => a - b,
        Bin::Mul => a * b,
        Bin::Div => a / b,
        Bin::Min => {
            if a.is_nan() | b.is_nan() {
                f64::NAN
            } else {
                a.min(b)
            }
        }
        Bin::Max => {
            if a.is_nan() | b.is_nan() {
                f64::NAN
            } else {
                a.max(b)
            }
        }
        Bin::Gt => known(a > b),
        Bin::Ge => known(a >= b),
        Bin::Lt => known(a < b),
        Bin::Le => known(a <= b),
        Bin::Eq => known(a == b),
        Bin::Ne => known(a != b),
        Bin::And => {
            if a == 0.0 {
                0.0
            } else if a.is_nan() {
                a
            } else {
                b
            }
        }
        Bin::Or => {
            if a == 1.0 {
                1.0
            } else if a.is_nan() {
                a
            } else {
                b
            }
        }
        Bin::OrElse => {
            if a.is_nan() {
                b
            } else {
                a
            }
        }
    }
}

/// A comparison of a window with a line, without which a program is not true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Need {
    pub(crate) window: u16,
    /// `>` or `>=`: the greater the value the sooner it holds; else `<` or `<=`.
    pub(crate) above: bool,
    prop: Prop,
    scale: f64,
    op: Bin,
    line: f64,
}

impl Need {
    /// The comparison, if one value can decide it for all that lie on its one side.
    fn new(window: u16, prop: Prop, scale: f64, op: Bin, line: f64) -> Option<Need> {
        // Of the window's value alone, and growing with it.
        let grows = !matches!(prop, Prop::Dev | Prop::Sigma | Prop::Now | Prop::Known | Prop::Overdue);
        let above = matches!(op, Bin::Gt | Bin::Ge);
        let ordered = above || matches!(op, Bin::Lt | Bin::Le);
        (grows && ordered).then_some(Need { window, above, prop, scale, op, line })
    }

    /// Whether it holds for a window with this value, in the inside unit.
    #[inline(always)]
    pub(crate) fn holds(&self, value: f64) -> bool {
        apply(self.op, Numbers { value, ..Numbers::UNKNOWN }.get(self.prop, self.scale), self.line) == 1.0
    }
}

/// What is known of a lane while a program is gone through.
#[derive(Debug, Clone)]
enum Lane {
    Reading(u16, Prop, f64),
    /// If it is true, so are these.
    Needs(Vec<Need>),
}

impl Program {
    /// Comparisons that all hold where the program is true: those that are joined by `&&` at its top.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut slots = vec![Lane::Needs(Vec::new()); self.slots];
        let mut stack: Vec<Lane> = Vec::new();
        let nothing = || Lane::Needs(Vec::new());
        for op in &self.code {
            let lane = match *op {
                Op::Const(_) => nothing(),
                Op::Read { window, prop, scale } => Lane::Reading(window, prop, scale),
                Op::Slot(i) => slots[i as usize].clone(),
                Op::Set(i) => {
                    slots[i as usize] = stack.pop().unwrap_or_else(nothing);
                    continue;
                }
                // It only makes more of the lane unknown.
                Op::MaskBy(_) => continue,
                Op::BinConst(op, line) => match stack.pop() {
                    Some(Lane::Reading(w, prop, scale)) => {
                        Lane::Needs(Need::new(w, prop, scale, op, line).into_iter().collect())
                    }
                    _ => nothing(),
                },
                Op::Bin(op) => match (stack.pop(), stack.pop(), op) {
                    (Some(Lane::Needs(right)), Some(Lane::Needs(mut left)), Bin::And) => {
                        left.extend(right);
                        Lane::Needs(left)
                    }
                    _ => nothing(),
                },
                Op::Neg | Op::Not | Op::Abs => {
                    stack.pop();
                    nothing()
                }
                Op::Select => {
                    stack.truncate(stack.len().saturating_sub(3));
                    nothing()
                }
            };
            stack.push(lane);
        }
        match stack.pop() {
            Some(Lane::Needs(needs)) => needs,
            _ => Vec::new(),
        }
    }

    /// Evaluates `lanes` subjects from row `from` on; the result's first `lanes` values are 0, 1 or NaN.
    pub(crate) fn run<'s>(
        &self,
        sources: &[Source<'_>],
        from: usize,
        lanes: usize,
        scratch: &'s mut Scratch,
    ) -> &'s [f64] {
        let lanes = lanes.min(LANES);
        if scratch.stack.len() < self.depth.max(1) {
            scratch.stack.resize(self.depth.max(1), [0.0; LANES]);
        }
        if scratch.slots.len() < self.slots {
            scratch.slots.resize(self.slots, [0.0; LANES]);
        }
        let (stack, slots) = (&mut scratch.stack, &mut scratch.slots);
        let mut sp = 0;
        for op in &self.code {
            match *op {
                Op::Const(c) => {
                    stack[sp][..lanes].fill(c);
                    sp += 1;
                }
                Op::Read { window, prop, scale } => {
                    let source = sources.get(window as usize).copied();
                    read(
                        source.unwrap_or(Source::Scalar(Numbers::UNKNOWN)),
                        prop,
                        scale,
                        from,
                        &mut stack[sp][..lanes],
                    );
                    sp += 1;
                }
                Op::Slot(i) => {
                    stack[sp][..lanes].copy_from_slice(&slots[i as usize][..lanes]);
                    sp += 1;
                }
                Op::Set(i) => {
                    sp -= 1;
                    slots[i as usize][..lanes].copy_from_slice(&stack[sp][..lanes]);
                }
                Op::Neg => each(&mut stack[sp - 1][..lanes], |x| -x),
                Op::Not => each(&mut stack[sp - 1][..lanes], |x| 1.0 - x),
                Op::Abs => each(&mut stack[sp - 1][..lanes], f64::abs),
                Op::Bin(op) => {
                    let (low, high) = stack.split_at_mut(sp - 1);
                    binary(op, &mut low[sp - 2][..lanes], &high[0][..lanes]);
                    sp -= 1;
                }
                Op::BinConst(op, c) => binary_const(op, &mut stack[sp - 1][..lanes], c),
                Op::Select => {
                    let (low, high) = stack.split_at_mut(sp - 2);
                    let (cond, then, other) = (&mut low[sp - 3], &high[0], &high[1]);
                    for i in 0..lanes {
                        let c = cond[i];
                        cond[i] = if c.is_nan() {
                            c
                        } else if c != 0.0 {
                            then[i]
                        } else {
                            other[i]
                        };
                    }
                    sp -= 2;
                }
                Op::MaskBy(slot) => {
                    let mask = &slots[slot as usize];
                    for (x, m) in stack[sp - 1][..lanes].iter_mut().zip(mask) {
                        *x = if m.is_nan() { f64::NAN } else { *x };
                    }
                }
            }
        }
        &scratch.stack[0][..lanes]
    }
}

fn read(source: Source<'_>, prop: Prop, scale: f64, from: usize, out: &mut [f64]) {
    match source {
        Source::Columns { value, dev, now } => {
            // A window's column may be shorter than the table while its subjects are new: the rest is unknown.
            let value = value.get(from..).unwrap_or(&[]);
            let n = value.len().min(out.len());
            let value = &value[..n];
            // The common properties are loops over one column that the compiler vectorises.
            match prop {
                Prop::Ns => out[..n].copy_from_slice(value),
                Prop::Value if scale == 1.0 => out[..n].copy_from_slice(value),
                Prop::Dev | Prop::Sigma | Prop::Now | Prop::Overdue => {
                    for (i, o) in out[..n].iter_mut().enumerate() {
                        let at = |c: &[f64]| c.get(from + i).copied().unwrap_or(f64::NAN);
                        *o = Numbers { value: value[i], dev: at(dev), now: at(now) }.get(prop, scale);
                    }
                }
                _ => {
                    for (o, v) in out[..n].iter_mut().zip(value) {
                        *o = Numbers { value: *v, ..Numbers::UNKNOWN }.get(prop, scale);
                    }
                }
            }
            let unknown = Numbers::UNKNOWN.get(prop, scale);
            out[n..].fill(unknown);
        }
        Source::Scalar(n) => out.fill(n.get(prop, scale)),
        Source::Gather { .. } => {
            for (i, o) in out.iter_mut().enumerate() {
                *o = source.at(from + i).get(prop, scale);
            }
        }
    }
}

fn each(lanes: &mut [f64], f: impl Fn(f64) -> f64) {
    for x in lanes {
        *x = f(*x);
    }
}

/// One loop for each operator, so that each is vectorised by itself.
macro_rules! dispatch {
    ($op:expr, $body:ident) => {
        match $op {
            Bin::Add => $body!(Bin::Add),
            Bin::Sub => $body!(Bin::Sub),
            Bin::Mul => $body!(Bin::Mul),
            Bin::Div => $body!(Bin::Div),
            Bin::Min => $body!(Bin::Min),
            Bin::Max => $body!(Bin::Max),
            Bin::Gt => $body!(Bin::Gt),
            Bin::Ge => $body!(Bin::Ge),
            Bin::Lt => $body!(Bin::Lt),
            Bin::Le => $body!(Bin::Le),
            Bin::Eq => $body!(Bin::Eq),
            Bin::Ne => $body!(Bin::Ne),
            Bin::And => $body!(Bin::And),
            Bin::Or => $body!(Bin::Or),
            Bin::OrElse => $body!(Bin::OrElse),
        }
    };
}

fn binary(op: Bin, a: &mut [f64], b: &[f64]) {
    macro_rules! go {
        ($op:expr) => {
            for (a, b) in a.iter_mut().zip(b) {
                *a = apply($op, *a, *b);
            }
        };
    }
    dispatch!(op, go);
}

fn binary_const(op: Bin, a: &mut [f64], b: f64) {
    macro_rules! go {
        ($op:expr) => {
            for x in a.iter_mut() {
                *x = apply($op, *x, b);
            }
        };
    }
    dispatch!(op, go);
}

/// Evaluates an operator on two constants at load time.
pub(crate) fn fold(op: Bin, a: f64, b: f64) -> f64 {
    apply(op, a, b)
}
